package api

import (
	"github.com/secexec/secexec/hostagent/fault"
	"github.com/secexec/secexec/proto/hostagent/v1"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
)

// forTenants are the calls that tenants may make; all others are the
// administrators', and so is a new one until it is written here. A call that is
// here must look its guests up by Service.find, which knows whose they are.
var forTenants = map[protoreflect.FullName]bool{
	"secexec.hostagent.v1.Hostagent.Create":    true,
	"secexec.hostagent.v1.Hostagent.Start":     true,
	"secexec.hostagent.v1.Hostagent.Stop":      true,
	"secexec.hostagent.v1.Hostagent.Kill":      true,
	"secexec.hostagent.v1.Hostagent.Delete":    true,
	"secexec.hostagent.v1.Hostagent.Get":       true,
	"secexec.hostagent.v1.Hostagent.List":      true,
	"secexec.hostagent.v1.Hostagent.Events":    true,
	"secexec.hostagent.v1.Hostagent.Console":   true,
	"secexec.hostagent.v1.Hostagent.Challenge": true,
	"secexec.hostagent.v1.Hostagent.NodeInfo":  true,
	"secexec.hostagent.v1.Stats.Usage":         true,
	"secexec.hostagent.v1.Dump.Dump":           true,
	"secexec.hostagent.v1.Channel.Connect":     true,
}

// lookUp finds a call and refuses one that the caller may not make.
func lookUp(c *Caller, service, method string) (protoreflect.MethodDescriptor, error) {
	var m protoreflect.MethodDescriptor
	if d, err := protoregistry.GlobalFiles.FindDescriptorByName(protoreflect.FullName(service)); err == nil {
		if s, ok := d.(protoreflect.ServiceDescriptor); ok {
			m = s.Methods().ByName(protoreflect.Name(method))
		}
	}
	if m == nil {
		return nil, fault.New(fault.BadRequest, "this hostagent has no call %.80q of %.80q: it is older than the client", method, service)
	}
	if !c.Admin && !forTenants[m.FullName()] {
		return nil, fault.New(fault.AdminOnly, "call %s is not for tenants", method)
	}
	return m, nil
}

// maxTenantWeight is systemd's default for CPUWeight and IOWeight: a tenant may
// step back behind others, not before them.
const maxTenantWeight = 100

// checkTenant refuses what is not a tenant's to ask for: what reaches beyond its
// own guests into the node.
func checkTenant(r *hostagentv1.CreateRequest) error {
	refuse := func(what string) error { return fault.New(fault.AdminOnly, "a tenant's guest can't have %s", what) }
	if len(r.Disks) > 0 {
		return refuse("disks beside its bundle's")
	}
	if len(r.Networks) > 0 { // also of kind user: by it a guest reaches what listens on the node's loopback
		return refuse("a network")
	}
	if res := r.Resources; res != nil && (res.CpuWeight > maxTenantWeight || res.IoWeight > maxTenantWeight) {
		return refuse("more than the usual weight of 100")
	}
	if r.Order != 0 {
		return refuse("a place in the order of the node's boot")
	}
	return nil
}
