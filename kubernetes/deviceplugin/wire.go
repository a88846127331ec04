package deviceplugin

import (
	"errors"
	"fmt"

	"google.golang.org/protobuf/encoding/protowire"
)

// Version of kubelet's device plugin API, in paths and registrations.
const Version = "v1beta1"

// Health of a device, in kubelet's words.
const (
	healthy   = "Healthy"
	unhealthy = "Unhealthy"
)

// errMessage says that what came is no message of the API.
var errMessage = errors.New("invalid message")

// Device is one unit of the resource.
type Device struct {
	ID      string // at most 63 characters
	Healthy bool
}

// Fields' numbers are those of k8s.io/kubelet/pkg/apis/deviceplugin/v1beta1's
// api.proto. There are few of them, so they are written down here: generated code
// would bring grpc-go, a third of secexec, and register names that Kubernetes'
// own code registers too.

// registerRequest is RegisterRequest.
func registerRequest(endpoint, resource string) []byte {
	b := appendString(nil, 1, Version)
	b = appendString(b, 2, endpoint)
	return appendString(b, 3, resource)
}

// listAndWatchResponse is ListAndWatchResponse.
func listAndWatchResponse(devices []Device) []byte {
	var b []byte
	for _, d := range devices {
		health := unhealthy
		if d.Healthy {
			health = healthy
		}
		one := appendString(appendString(nil, 1, d.ID), 2, health)
		b = protowire.AppendBytes(protowire.AppendTag(b, 1, protowire.BytesType), one)
	}
	return b
}

// allocateResponse is AllocateResponse: for each container nothing to add. A
// guest needs nothing of its pod but the place.
func allocateResponse(containers int) []byte {
	var b []byte
	for range containers {
		b = protowire.AppendBytes(protowire.AppendTag(b, 1, protowire.BytesType), nil)
	}
	return b
}

func appendString(b []byte, number protowire.Number, s string) []byte {
	return protowire.AppendString(protowire.AppendTag(b, number, protowire.BytesType), s)
}

// parseAllocateRequest returns the devices that are to be given to each
// container. Fields of a later API are passed over.
func parseAllocateRequest(b []byte) ([][]string, error) {
	var out [][]string
	err := eachField(b, 1, func(container []byte) error {
		ids := []string{}
		err := eachField(container, 1, func(id []byte) error {
			ids = append(ids, string(id))
			return nil
		})
		out = append(out, ids)
		return err
	})
	return out, err
}

// eachField calls do with each value of a field of bytes.
func eachField(b []byte, number protowire.Number, do func([]byte) error) error {
	for len(b) > 0 {
		n, kind, length := protowire.ConsumeTag(b)
		if length < 0 {
			return fmt.Errorf("%w: %w", errMessage, protowire.ParseError(length))
		}
		b = b[length:]
		if n != number || kind != protowire.BytesType {
			if length = protowire.ConsumeFieldValue(n, kind, b); length < 0 {
				return fmt.Errorf("%w: %w", errMessage, protowire.ParseError(length))
			}
			b = b[length:]
			continue
		}
		value, length := protowire.ConsumeBytes(b)
		if length < 0 {
			return fmt.Errorf("%w: %w", errMessage, protowire.ParseError(length))
		}
		if err := do(value); err != nil {
			return err
		}
		b = b[length:]
	}
	return nil
}
