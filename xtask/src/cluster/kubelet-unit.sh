# What the unit of systemd in the package kubelet does (10-kubeadm.conf): the kubelet begins when kubeadm has written its files.
# The unit fails and is started again until then; a node without systemd looks once a second.
until [ -e /var/lib/kubelet/config.yaml ] && [ -e /var/lib/kubelet/kubeadm-flags.env ]; do
  sleep 1
done
. /var/lib/kubelet/kubeadm-flags.env
# shellcheck disable=SC2086
exec kubelet --bootstrap-kubeconfig=/etc/kubernetes/bootstrap-kubelet.conf --kubeconfig=/etc/kubernetes/kubelet.conf \
  --config=/var/lib/kubelet/config.yaml $KUBELET_KUBEADM_ARGS "$@"
