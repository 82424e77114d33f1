# supervise.sh NAME PIDFILE COMMAND...: runs a component, and again when it ends, as an init system would.
name=$1 pidfile=$2
shift 2
mkdir -p "$(dirname "$pidfile")"
while :; do
  "$@" &
  echo $! >"$pidfile"
  wait $!
  echo "cluster: $name ended with status $?; starting it again"
  sleep 1
done
