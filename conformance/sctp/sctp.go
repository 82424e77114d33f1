// Package sctp gives agnhost SCTP where the kernel has none: associations of one stream over raw sockets of IPv4, one message at a time.
//
// It has the part of github.com/ishidawataru/sctp that agnhost calls, by the same names, and is built in its place into the image of
// one suite. What is on the wire is SCTP with its checksum: INIT, INIT ACK, COOKIE ECHO, COOKIE ACK, DATA, SACK, SHUTDOWN and its two answers.
// Reference: RFC 9260, sections 3, 5 and 9. It needs CAP_NET_RAW, as containers have it.
package sctp

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"strconv"
	"sync"
	"syscall"
	"time"
)

const (
	// Between two tries, and how many there are.
	pause = 300 * time.Millisecond
	tries = 20
	// Before the end.
	settle = 200 * time.Millisecond
	// What the receiver says that it takes.
	window = 65536
)

// SCTPAddr is where one end of an association is.
type SCTPAddr struct {
	IPAddrs []net.IPAddr
	Port    int
}

// Network is "sctp".
func (a *SCTPAddr) Network() string { return "sctp" }

func (a *SCTPAddr) String() string { return net.JoinHostPort(a.ip().String(), strconv.Itoa(a.Port)) }

func (a *SCTPAddr) ip() net.IP {
	if len(a.IPAddrs) == 0 {
		return net.IPv4zero
	}
	return a.IPAddrs[0].IP
}

// ResolveSCTPAddr reads HOST:PORT.
func ResolveSCTPAddr(_, address string) (*SCTPAddr, error) {
	at, err := net.ResolveTCPAddr("tcp", address)
	if err != nil {
		return nil, err
	}
	if at.IP != nil && at.IP.To4() == nil {
		return nil, fmt.Errorf("%s: only IPv4 is served over raw sockets", address)
	}
	resolved := &SCTPAddr{Port: at.Port}
	if at.IP != nil {
		resolved.IPAddrs = []net.IPAddr{{IP: at.IP}}
	}
	return resolved, nil
}

// SCTPListener answers those who begin associations at a port.
type SCTPListener struct {
	socket   *net.IPConn
	port     uint16
	accepted chan *SCTPConn
	// Tags of ours: a cookie that is said again begins nothing.
	begun map[uint32]bool
}

// ListenSCTP listens at a port of every address, or of one.
func ListenSCTP(_ string, local *SCTPAddr) (*SCTPListener, error) {
	socket, err := net.ListenIP("ip4:132", &net.IPAddr{IP: local.ip()})
	if err != nil {
		return nil, err
	}
	accepted := make(chan *SCTPConn, 16)
	listener := &SCTPListener{socket: socket, port: uint16(local.Port), accepted: accepted, begun: map[uint32]bool{}}
	go listener.serve()
	return listener, nil
}

// AcceptSCTP waits for the next association.
func (l *SCTPListener) AcceptSCTP() (*SCTPConn, error) {
	conn, open := <-l.accepted
	if !open {
		return nil, net.ErrClosed
	}
	return conn, nil
}

// Close ends listening.
func (l *SCTPListener) Close() error { return l.socket.Close() }

// serve keeps nothing of an association before its cookie comes back.
func (l *SCTPListener) serve() {
	defer close(l.accepted)
	buffer := make([]byte, window)
	for {
		// With the IP header, which says to which address the peer spoke.
		n, _, _, from, err := l.socket.ReadMsgIP(buffer, nil)
		if err != nil {
			if errors.Is(err, net.ErrClosed) {
				return
			}
			continue
		}
		to, body, ok := payload(buffer[:n])
		if !ok {
			continue
		}
		packet, ok := parse(body)
		if !ok || packet.to != l.port {
			continue
		}
		for _, chunk := range packet.chunks {
			l.hear(packet, chunk, to, from.IP)
		}
	}
}

func (l *SCTPListener) hear(packet packet, chunk chunk, local, remote net.IP) {
	switch {
	case chunk.kind == chunkInit && len(chunk.value) >= 16:
		peer := binary.BigEndian.Uint32(chunk.value)
		tag, tsn := rand.Uint32()|1, rand.Uint32()
		cookie := binary.BigEndian.AppendUint32(nil, tag)
		cookie = binary.BigEndian.AppendUint32(cookie, tsn)
		cookie = append(cookie, chunk.value[:4]...)
		cookie = append(cookie, chunk.value[12:16]...)
		parameter := append([]byte{0, 7, 0, byte(4 + len(cookie))}, cookie...)
		if socket, err := net.DialIP("ip4:132", &net.IPAddr{IP: local}, &net.IPAddr{IP: remote}); err == nil {
			_, _ = socket.Write(build(l.port, packet.from, peer, chunkInitAck, 0, append(initBody(tag, tsn), parameter...)))
			_ = socket.Close()
		}
	case chunk.kind == chunkCookieEcho && len(chunk.value) == 16 && packet.tag == binary.BigEndian.Uint32(chunk.value) && !l.begun[packet.tag]:
		l.begun[packet.tag] = true
		socket, err := net.DialIP("ip4:132", &net.IPAddr{IP: local}, &net.IPAddr{IP: remote})
		if err != nil {
			return
		}
		word := func(index int) uint32 { return binary.BigEndian.Uint32(chunk.value[4*index:]) }
		conn := newConn(socket, l.port, packet.from)
		conn.tag, conn.sent, conn.peerTag, conn.received = word(0), word(1)-1, word(2), word(3)-1
		conn.send(chunkCookieAck, 0, nil)
		go conn.read()
		l.accepted <- conn
	}
}

// SCTPConn is an association.
type SCTPConn struct {
	socket           *net.IPConn
	local, remote    uint16
	tag, peerTag     uint32
	messages         chan []byte
	deadline         time.Time
	mutex            sync.Mutex
	changed          *sync.Cond
	sent, acked      uint32
	sequence         uint16
	received         uint32
	closing, at, end bool
	cookie           []byte
}

func newConn(socket *net.IPConn, local, remote uint16) *SCTPConn {
	conn := &SCTPConn{socket: socket, local: local, remote: remote, messages: make(chan []byte, 64)}
	conn.changed = sync.NewCond(&conn.mutex)
	return conn
}

// DialSCTP begins an association with a remote port.
func DialSCTP(_ string, _, remote *SCTPAddr) (*SCTPConn, error) {
	socket, err := net.DialIP("ip4:132", nil, &net.IPAddr{IP: remote.ip()})
	if err != nil {
		return nil, err
	}
	conn := newConn(socket, uint16(49152+rand.IntN(16384)), uint16(remote.Port))
	conn.tag, conn.sent = rand.Uint32()|1, rand.Uint32()
	go conn.read()
	begin := func() {
		if conn.cookie == nil {
			_, _ = socket.Write(build(conn.local, conn.remote, 0, chunkInit, 0, initBody(conn.tag, conn.sent+1)))
		} else {
			conn.send(chunkCookieEcho, 0, conn.cookie)
		}
	}
	if !conn.until(begin, func() bool { return conn.at }) {
		_ = socket.Close()
		return nil, os.NewSyscallError("connect", syscall.ETIMEDOUT)
	}
	return conn, nil
}

// until says a thing again and again until something holds, or the association is at its end.
func (c *SCTPConn) until(say func(), holds func() bool) bool {
	c.mutex.Lock()
	defer c.mutex.Unlock()
	for range tries {
		if holds() || c.end {
			return holds()
		}
		say()
		timer := time.AfterFunc(pause, func() {
			c.mutex.Lock()
			defer c.mutex.Unlock()
			c.changed.Broadcast()
		})
		c.changed.Wait()
		timer.Stop()
	}
	return holds()
}

// Write sends a message and waits until the peer has it.
func (c *SCTPConn) Write(message []byte) (int, error) {
	c.mutex.Lock()
	c.sent++
	body := binary.BigEndian.AppendUint32(nil, c.sent)
	body = binary.BigEndian.AppendUint16(body, 0)
	body = binary.BigEndian.AppendUint16(body, c.sequence)
	body = append(append(body, 0, 0, 0, 0), message...)
	c.sequence++
	number := c.sent
	c.acked = number - 1
	c.mutex.Unlock()
	// One fragment, which is the first and the last.
	if !c.until(func() { c.send(chunkData, 3, body) }, func() bool { return c.acked == number }) {
		return 0, os.NewSyscallError("write", syscall.ETIMEDOUT)
	}
	return len(message), nil
}

// Read waits for the next message.
func (c *SCTPConn) Read(buffer []byte) (int, error) {
	var late <-chan time.Time
	if !c.deadline.IsZero() {
		late = time.After(time.Until(c.deadline))
	}
	select {
	case message, open := <-c.messages:
		if !open {
			return 0, io.EOF
		}
		return copy(buffer, message), nil
	case <-late:
		return 0, os.ErrDeadlineExceeded
	}
}

// SetReadDeadline limits the next Read.
func (c *SCTPConn) SetReadDeadline(deadline time.Time) error {
	c.deadline = deadline
	return nil
}

// SCTPRemoteAddr is where the peer is.
func (c *SCTPConn) SCTPRemoteAddr(int) (*SCTPAddr, error) {
	remote, _ := c.socket.RemoteAddr().(*net.IPAddr)
	return &SCTPAddr{IPAddrs: []net.IPAddr{*remote}, Port: int(c.remote)}, nil
}

// Close shuts the association down and waits for the peer's word. A kernel's peer says after 200 ms that it has the last message, and no
// shutdown is before that; a peer that speaks second counts on it.
func (c *SCTPConn) Close() error {
	time.Sleep(settle)
	c.mutex.Lock()
	c.closing = true
	c.mutex.Unlock()
	shut := func() { c.send(chunkShutdown, 0, binary.BigEndian.AppendUint32(nil, c.received)) }
	c.until(shut, func() bool { return c.end })
	return c.socket.Close()
}

// read hears the peer until the association or its socket ends.
func (c *SCTPConn) read() {
	defer close(c.messages)
	buffer := make([]byte, window)
	for {
		n, _, err := c.socket.ReadFrom(buffer)
		c.mutex.Lock()
		if err != nil {
			c.end = true
		} else if packet, ok := parse(buffer[:n]); ok && packet.from == c.remote && packet.to == c.local && packet.tag == c.tag {
			for _, chunk := range packet.chunks {
				c.hear(chunk)
			}
		}
		end := c.end
		c.changed.Broadcast()
		c.mutex.Unlock()
		if end {
			return
		}
	}
}

// hear takes one chunk, with the lock held.
func (c *SCTPConn) hear(chunk chunk) {
	switch chunk.kind {
	case chunkInitAck:
		if c.cookie == nil && len(chunk.value) >= 16 {
			c.peerTag = binary.BigEndian.Uint32(chunk.value)
			c.received = binary.BigEndian.Uint32(chunk.value[12:]) - 1
			c.cookie = cookieOf(chunk.value[16:])
		}
	case chunkCookieEcho:
		c.send(chunkCookieAck, 0, nil)
	case chunkCookieAck:
		c.at = true
	case chunkData:
		if len(chunk.value) < 12 {
			return
		}
		if binary.BigEndian.Uint32(chunk.value) == c.received+1 {
			select {
			case c.messages <- append([]byte(nil), chunk.value[12:]...):
				c.received++
			default:
				// The reader is behind; the peer says it again.
			}
		}
		body := binary.BigEndian.AppendUint32(nil, c.received)
		c.send(chunkSack, 0, append(binary.BigEndian.AppendUint32(body, window), 0, 0, 0, 0))
	case chunkSack:
		if len(chunk.value) >= 4 {
			c.acked = binary.BigEndian.Uint32(chunk.value)
		}
	case chunkShutdown:
		// What is under way is said first; the peer asks again.
		if c.closing || c.sequence == 0 || c.acked == c.sent {
			c.send(chunkShutdownAck, 0, nil)
		}
	case chunkShutdownAck:
		c.send(chunkShutdownComplete, 0, nil)
		c.end = true
	case chunkShutdownComplete, chunkAbort:
		c.end = true
	}
}

func (c *SCTPConn) send(kind, flags byte, value []byte) {
	// What is lost is said again.
	_, _ = c.socket.Write(build(c.local, c.remote, c.peerTag, kind, flags, value))
}
