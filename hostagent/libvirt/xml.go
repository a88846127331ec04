package libvirt

import "encoding/xml"

// The elements of domain XML that a sealed guest has, as
// https://libvirt.org/formatdomain.html describes them.

type domain struct {
	XMLName   xml.Name        `xml:"domain"`
	Type      string          `xml:"type,attr"`
	Name      string          `xml:"name"`
	UUID      string          `xml:"uuid,omitempty"`
	Memory    memory          `xml:"memory"`
	Backing   backing         `xml:"memoryBacking"`
	VCPU      int             `xml:"vcpu"`
	IOThreads int             `xml:"iothreads,omitempty"`
	OS        operatingSystem `xml:"os"`
	CPU       cpu             `xml:"cpu"`
	PowerOff  string          `xml:"on_poweroff"`
	Reboot    string          `xml:"on_reboot"`
	Crash     string          `xml:"on_crash"`
	Devices   devices         `xml:"devices"`
	Security  security        `xml:"launchSecurity"`
}

type empty struct{}

type memory struct {
	Unit     string `xml:"unit,attr"`
	DumpCore string `xml:"dumpCore,attr"`
	Size     int    `xml:",chardata"`
}

type backing struct {
	NoSharePages *empty `xml:"nosharepages"`
}

type operatingSystem struct {
	Type   osType `xml:"type"`
	Kernel string `xml:"kernel,omitempty"`
}

type osType struct {
	Arch    string `xml:"arch,attr"`
	Machine string `xml:"machine,attr"`
	Text    string `xml:",chardata"`
}

type cpu struct {
	Mode string `xml:"mode,attr"`
}

type security struct {
	Type string `xml:"type,attr"`
}

type devices struct {
	Disks       []disk         `xml:"disk"`
	Controllers []controller   `xml:"controller"`
	Interfaces  []netInterface `xml:"interface"`
	Channels    []channel      `xml:"channel"`
	Console     console        `xml:"console"`
	Balloon     model          `xml:"memballoon"`
}

type disk struct {
	Type     string     `xml:"type,attr"`
	Device   string     `xml:"device,attr"`
	Driver   diskDriver `xml:"driver"`
	Source   diskSource `xml:"source"`
	Backing  *empty     `xml:"backingStore"` // empty: whatever the image says, there is none
	Target   diskTarget `xml:"target"`
	Serial   string     `xml:"serial"`
	Boot     *boot      `xml:"boot"`
	ReadOnly *empty     `xml:"readonly"`
	Address  address    `xml:"address"`
}

type diskDriver struct {
	Name         string `xml:"name,attr"`
	Type         string `xml:"type,attr"`
	Cache        string `xml:"cache,attr"`
	IO           string `xml:"io,attr"`
	Discard      string `xml:"discard,attr"`
	DetectZeroes string `xml:"detect_zeroes,attr"`
	IOThread     int    `xml:"iothread,attr,omitempty"`
	Queues       int    `xml:"queues,attr,omitempty"`
	IOMMU        string `xml:"iommu,attr,omitempty"`
}

type diskSource struct {
	File string `xml:"file,attr,omitempty"`
	Dev  string `xml:"dev,attr,omitempty"`
}

type diskTarget struct {
	Dev string `xml:"dev,attr"`
	Bus string `xml:"bus,attr"`
}

type boot struct {
	Order    int    `xml:"order,attr"`
	Loadparm string `xml:"loadparm,attr,omitempty"`
}

type address struct {
	Type       string `xml:"type,attr"`
	CSSID      string `xml:"cssid,attr,omitempty"`
	SSID       string `xml:"ssid,attr,omitempty"`
	Devno      string `xml:"devno,attr,omitempty"`
	Controller string `xml:"controller,attr,omitempty"`
	Bus        string `xml:"bus,attr,omitempty"`
	Target     string `xml:"target,attr,omitempty"`
	Unit       string `xml:"unit,attr,omitempty"`
}

type controller struct {
	Type    string           `xml:"type,attr"`
	Index   int              `xml:"index,attr"`
	Model   string           `xml:"model,attr,omitempty"`
	Driver  controllerDriver `xml:"driver"`
	Address address          `xml:"address"`
}

type controllerDriver struct {
	Queues   int    `xml:"queues,attr,omitempty"`
	IOThread int    `xml:"iothread,attr,omitempty"`
	IOMMU    string `xml:"iommu,attr"`
}

type netInterface struct {
	Type    string     `xml:"type,attr"`
	MAC     mac        `xml:"mac"`
	Target  *netTarget `xml:"target"`
	Model   netModel   `xml:"model"`
	Driver  netDriver  `xml:"driver"`
	Address address    `xml:"address"`
}

type mac struct {
	Address string `xml:"address,attr"`
}

type netTarget struct {
	Dev     string `xml:"dev,attr"`
	Managed string `xml:"managed,attr"`
}

type netModel struct {
	Type string `xml:"type,attr"`
}

type netDriver struct {
	Name   string `xml:"name,attr"` // qemu: no vhost
	Queues int    `xml:"queues,attr,omitempty"`
	IOMMU  string `xml:"iommu,attr"`
}

type channel struct {
	Type   string        `xml:"type,attr"`
	Target channelTarget `xml:"target"`
}

type channelTarget struct {
	Type string `xml:"type,attr"`
	Name string `xml:"name,attr"`
}

type console struct {
	Type   string        `xml:"type,attr"`
	Log    *log          `xml:"log"`
	Target consoleTarget `xml:"target"`
}

type log struct {
	File   string `xml:"file,attr"`
	Append string `xml:"append,attr"`
}

type consoleTarget struct {
	Type string `xml:"type,attr"`
	Port string `xml:"port,attr"`
}

type model struct {
	Model string `xml:"model,attr"`
}
