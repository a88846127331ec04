package api

import (
	"encoding/binary"
	"errors"

	"github.com/containerd/ttrpc"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
)

// ttrpc's frame: length of the payload (4 bytes), stream (4), type (1), flags
// (1), payload; big-endian. From containerd/ttrpc's PROTOCOL.md.
const (
	headerSize = 10

	typeRequest  = 1
	typeResponse = 2
	typeData     = 3

	flagRemoteClosed = 1
)

// maxFrame is the largest payload that ttrpc knows.
const maxFrame = 4 << 20

type header struct {
	length, stream uint32
	kind, flags    byte
}

func parseHeader(b []byte) header {
	return header{binary.BigEndian.Uint32(b), binary.BigEndian.Uint32(b[4:]), b[8], b[9]}
}

func (h header) append(b []byte) []byte {
	b = binary.BigEndian.AppendUint32(b, h.length)
	b = binary.BigEndian.AppendUint32(b, h.stream)
	return append(b, h.kind, h.flags)
}

// last tells whether a frame of the server ends its call.
func (h header) last() bool {
	return h.kind == typeResponse || h.kind == typeData && h.flags&flagRemoteClosed != 0
}

var errRequest = errors.New("invalid request")

// parseRequest reads which call a ttrpc.Request makes. As proto does, the last
// of several values holds.
func parseRequest(b []byte) (service, method string, err error) {
	for len(b) > 0 {
		num, kind, n := protowire.ConsumeTag(b)
		if n < 0 {
			return "", "", errRequest
		}
		b = b[n:]
		if kind == protowire.BytesType && (num == 1 || num == 2) {
			v, n := protowire.ConsumeBytes(b)
			if n < 0 || n > maxMethod {
				return "", "", errRequest
			}
			if b = b[n:]; num == 1 {
				service = string(v)
			} else {
				method = string(v)
			}
			continue
		}
		if n = protowire.ConsumeFieldValue(num, kind, b); n < 0 {
			return "", "", errRequest
		}
		b = b[n:]
	}
	return service, method, nil
}

// maxMethod bounds the name of a service or method, in bytes.
const maxMethod = 256

// answer is the frame that ends a call with an error.
func answer(stream uint32, err error) []byte {
	st, _ := status.FromError(toStatus(err))
	payload, e := proto.Marshal(&ttrpc.Response{Status: st.Proto()})
	if e != nil {
		payload = nil // strings in it are valid UTF-8, so this does not happen
	}
	return append(header{uint32(len(payload)), stream, typeResponse, 0}.append(nil), payload...)
}
