package task

import (
	"context"
	"errors"
	"fmt"

	"google.golang.org/grpc/codes"
	grpcstatus "google.golang.org/grpc/status"

	"github.com/secexec/secexec/hostagent/fault"
)

// refusal is an error with a status, by which containerd's clients see it as one
// of its errdefs.
type refusal struct {
	code codes.Code
	err  error
}

func (r *refusal) Error() string                  { return r.err.Error() }
func (r *refusal) Unwrap() error                  { return r.err }
func (r *refusal) GRPCStatus() *grpcstatus.Status { return grpcstatus.New(r.code, r.err.Error()) }

func refuse(code codes.Code, format string, args ...any) error {
	return &refusal{code, fmt.Errorf(format, args...)}
}

func notFound(format string, args ...any) error {
	return refuse(codes.NotFound, format+": not found", args...)
}

func invalid(format string, args ...any) error { return refuse(codes.InvalidArgument, format, args...) }

func failedPrecondition(format string, args ...any) error {
	return refuse(codes.FailedPrecondition, format, args...)
}

func notImplemented(format string, args ...any) error {
	return refuse(codes.Unimplemented, format, args...)
}

// status gives an error the status of what it wraps: hostagent's failures have
// theirs by code, and keep code, sentence and remedy in the text.
func status(err error) error {
	var f *fault.Error
	var r *refusal
	code := codes.Unknown
	switch {
	case err == nil:
		return nil
	case errors.As(err, &r):
		code = r.code
	case errors.As(err, &f):
		code = f.Code.Status()
	case errors.Is(err, context.DeadlineExceeded):
		code = codes.DeadlineExceeded
	case errors.Is(err, context.Canceled):
		code = codes.Canceled
	}
	return grpcstatus.Error(code, err.Error())
}
