package kernel

import "fmt"

// enforcing are the options with which a kernel loads no module without a valid
// signature, whatever its command line says.
var enforcing = []string{
	"CONFIG_MODULE_SIG_FORCE", "CONFIG_LOCK_DOWN_KERNEL_FORCE_INTEGRITY", "CONFIG_LOCK_DOWN_KERNEL_FORCE_CONFIDENTIALITY",
}

// EnforcesSignatures returns why the kernel loads only signed modules, "" where
// its configuration says that it loads others, or is not known.
func (k *Kernel) EnforcesSignatures() string {
	config, from := k.Config, k.ConfigFrom
	if config == nil {
		config, from = embeddedConfig(k.Image), "the image"
	}
	for _, name := range enforcing {
		if option(config, name) {
			return fmt.Sprintf("%s=y in %s", name, from)
		}
	}
	return ""
}
