package sctp

import (
	"encoding/binary"
	"hash/crc32"
	"net"
)

// Chunks by their type.
const (
	chunkData             = 0
	chunkInit             = 1
	chunkInitAck          = 2
	chunkSack             = 3
	chunkAbort            = 6
	chunkShutdown         = 7
	chunkShutdownAck      = 8
	chunkCookieEcho       = 10
	chunkCookieAck        = 11
	chunkShutdownComplete = 14
)

// parameterCookie is the parameter of an INIT ACK that comes back in a COOKIE ECHO.
const parameterCookie = 7

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

type packet struct {
	from, to uint16
	tag      uint32
	chunks   []chunk
}

type chunk struct {
	kind  byte
	value []byte
}

// payload takes a packet of IPv4 apart: where it went, and what it holds.
func payload(bytes []byte) (net.IP, []byte, bool) {
	if len(bytes) < 20 || bytes[0]>>4 != 4 {
		return nil, nil, false
	}
	header := int(bytes[0]&15) * 4
	if header < 20 || len(bytes) < header {
		return nil, nil, false
	}
	return append(net.IP(nil), bytes[16:20]...), bytes[header:], true
}

// parse reads a packet whose checksum is right.
func parse(bytes []byte) (packet, bool) {
	if len(bytes) < 12 || checksum(bytes) != binary.LittleEndian.Uint32(bytes[8:]) {
		return packet{}, false
	}
	found := packet{from: binary.BigEndian.Uint16(bytes), to: binary.BigEndian.Uint16(bytes[2:]), tag: binary.BigEndian.Uint32(bytes[4:])}
	for rest := bytes[12:]; len(rest) >= 4; {
		length := int(binary.BigEndian.Uint16(rest[2:]))
		if length < 4 || length > len(rest) {
			return packet{}, false
		}
		found.chunks = append(found.chunks, chunk{kind: rest[0], value: rest[4:length]})
		rest = rest[min(padded(length), len(rest)):]
	}
	return found, true
}

// build makes a packet of one chunk.
func build(from, to uint16, tag uint32, kind, flags byte, value []byte) []byte {
	bytes := binary.BigEndian.AppendUint16(nil, from)
	bytes = binary.BigEndian.AppendUint16(bytes, to)
	bytes = binary.BigEndian.AppendUint32(bytes, tag)
	bytes = append(bytes, 0, 0, 0, 0, kind, flags)
	bytes = binary.BigEndian.AppendUint16(bytes, uint16(4+len(value)))
	bytes = append(bytes, value...)
	bytes = append(bytes, make([]byte, padded(len(value))-len(value))...)
	binary.LittleEndian.PutUint32(bytes[8:], checksum(bytes))
	return bytes
}

// initBody is what INIT and INIT ACK begin with: the tag, the window, one stream each way, the first number.
func initBody(tag, tsn uint32) []byte {
	body := binary.BigEndian.AppendUint32(nil, tag)
	body = binary.BigEndian.AppendUint32(body, window)
	body = append(body, 0, 1, 0, 1)
	return binary.BigEndian.AppendUint32(body, tsn)
}

// cookieOf finds the cookie among the parameters of an INIT ACK.
func cookieOf(parameters []byte) []byte {
	for len(parameters) >= 4 {
		length := int(binary.BigEndian.Uint16(parameters[2:]))
		if length < 4 || length > len(parameters) {
			return nil
		}
		if binary.BigEndian.Uint16(parameters) == parameterCookie {
			return append([]byte(nil), parameters[4:length]...)
		}
		parameters = parameters[min(padded(length), len(parameters)):]
	}
	return nil
}

// checksum is the CRC32c of a packet whose checksum is taken as zero.
func checksum(bytes []byte) uint32 {
	sum := crc32.Update(0, castagnoli, bytes[:8])
	sum = crc32.Update(sum, castagnoli, []byte{0, 0, 0, 0})
	return crc32.Update(sum, castagnoli, bytes[12:])
}

func padded(length int) int { return (length + 3) &^ 3 }
