// Command guestinit is PID 1 of a sealed guest. It believes the sealed record in
// its own encrypted initrd and nothing else: it loads the modules named there,
// maps the root disk with the key and geometry from there, mounts it, starts
// guestagent and becomes the root's init.
//
// Any failure ends in a power-off with a fixed sentence; there is no shell, no
// option on the kernel command line, and no wait without an end.
package main

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"runtime/debug"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/secexec/secexec/guestinit/blockdev"
	"github.com/secexec/secexec/guestinit/devmapper"
	"github.com/secexec/secexec/guestinit/handover"
	"github.com/secexec/secexec/guestinit/kmod"
	"github.com/secexec/secexec/guestinit/mounts"
	"github.com/secexec/secexec/guestinit/progress"
	"github.com/secexec/secexec/proto/readiness"
	"github.com/secexec/secexec/sealed"
	"github.com/secexec/secexec/secret"
)

// Paths in the initrd, as package initrd lays them out, and where the root goes.
const (
	recordPath = "/sealed.record"
	modulesDir = "/modules/"
	agentPath  = "/guestagent"
	newRoot    = "/newroot"
)

// Bounds of waiting.
const (
	bootDeadline = 120 * time.Second // for all of guestinit
	diskDeadline = 20 * time.Second  // for a volume's disk to appear
	pollEvery    = 2 * time.Millisecond
)

func main() {
	if os.Getpid() != 1 {
		fmt.Fprintln(os.Stderr, "guestinit: runs only as PID 1 of a sealed guest")
		os.Exit(2)
	}
	// The thread keyring, and with it the volume key's way to dm-crypt, belongs
	// to one thread.
	runtime.LockOSThread()
	debug.SetGCPercent(-1) // short life, and no copies of what is to be wiped
	b := &boot{stages: progress.New(nil, [readiness.IDSize]byte{})}
	watchdog := time.AfterFunc(bootDeadline, func() { b.powerOff(failTooSlow) })
	defer watchdog.Stop()
	defer func() {
		if recover() != nil {
			b.powerOff(failInternal)
		}
	}()
	b.powerOff(b.run())
}

// boot is one boot's state.
type boot struct {
	stages *progress.Stages
	port   *progress.Serial
	bootID [readiness.IDSize]byte
}

// run goes from nothing to the root's init. It returns only on failure.
func (b *boot) run() error {
	if err := mounts.Kernel(); err != nil {
		return failMounts.because(err)
	}
	b.openConsole()
	b.openPort()
	b.pass(readiness.StageKernel)

	record, err := readRecord()
	if err != nil {
		return failRecord.because(err)
	}
	defer record.Wipe()
	for _, m := range record.Modules {
		if err := kmod.Load(modulesDir+m.File, m.Optional); err != nil {
			return failModule.because(err)
		}
	}
	device, err := unlock(&record.Root, "root", rootFailures)
	if err != nil {
		return err
	}
	b.pass(readiness.StageUnlocked)
	if err := mounts.Root(device, newRoot, record.Root.FSType, record.Root.ReadOnly); err != nil {
		return failRoot.because(err)
	}
	for i := range record.Data {
		if err := mountData(&record.Data[i], i); err != nil {
			return err
		}
	}
	if err := handover.CheckInit(newRoot, record.Init); err != nil {
		return failInit.because(err)
	}
	if err := handover.MaskAutoMounts("/"); err != nil {
		return failHandover.because(err)
	}
	b.pass(readiness.StageMounted)
	b.pass(readiness.StageHandover)
	if err := startAgent(b, record); err != nil {
		return failAgent.because(err)
	}
	record.Wipe()
	if err := handover.SwitchRoot(newRoot, mounts.Moved); err != nil {
		return failHandover.because(err)
	}
	return failHandover.because(handover.Exec(record.Init))
}

// readRecord takes the sealed record out of the initramfs.
func readRecord() (*sealed.Record, error) {
	f, err := os.OpenFile(recordPath, os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	raw := make(secret.Bytes, sealed.MaxSize+1)
	defer raw.Wipe()
	n := 0
	for n < len(raw) {
		got, err := f.Read(raw[n:])
		if got == 0 || err != nil {
			break
		}
		n += got
	}
	record, err := sealed.Unmarshal(raw[:n])
	if err != nil {
		return nil, err
	}
	// The initramfs keeps files in pages of its own: wipe them, then let go.
	if _, err := f.WriteAt(make([]byte, n), 0); err != nil {
		return nil, err
	}
	return record, os.Remove(recordPath)
}

// volumeFailures are what can go wrong with a volume.
type volumeFailures struct{ none, several, size, crypt failure }

var (
	rootFailures = volumeFailures{failNoDisk, failTwoDisks, failDiskSize, failCrypt}
	dataFailures = volumeFailures{failNoData, failTwoData, failDataSize, failDataCrypt}
)

// mountData maps a data volume and mounts it in the root, which no init of the
// root's runs in yet.
func mountData(d *sealed.DataVolume, number int) error {
	device, err := unlock(&d.Volume, fmt.Sprintf("data%d", number), dataFailures)
	if err != nil {
		return err
	}
	err = mounts.Data(device, newRoot, d.Mount, d.FSType, d.ReadOnly)
	if errors.Is(err, mounts.ErrMountPoint) {
		return failDataMount.because(err)
	} else if err != nil {
		return failData.because(err)
	}
	return nil
}

// unlock maps a volume as sealed and returns the mapping's node. name ends the
// names of the mapping and of its key in the keyring. Of the disk it reads no
// byte but, to find a partition, the table.
func unlock(v *sealed.Volume, name string, fail volumeFailures) (string, error) {
	disk, err := waitDisk(v, fail)
	if err != nil {
		return "", err
	}
	if disk.Size < v.Offset+v.Size {
		return "", fail.size
	}
	_, minor, err := devmapper.Create(devmapper.Crypt{
		Name: "secexec-" + name, Cipher: v.Cipher, KeySize: len(v.Key), KeyDescription: "secexec:" + name,
		Major: disk.Major, Minor: disk.Minor, Offset: v.Offset, Size: v.Size,
		SectorSize: sealed.SectorSize, ReadOnly: v.ReadOnly,
	}, v.Key)
	if err != nil {
		return "", fail.crypt.because(err)
	}
	v.Key.Wipe()
	return fmt.Sprintf("/dev/dm-%d", minor), nil
}

// waitDisk waits for a volume's disk or partition, at most diskDeadline.
func waitDisk(v *sealed.Volume, fail volumeFailures) (disk *blockdev.Disk, err error) {
	deadline := time.Now().Add(diskDeadline)
	for {
		if v.Serial != "" {
			disk, err = blockdev.FindSerial(os.DirFS("/sys/block"), v.Serial)
		} else {
			disk, err = blockdev.FindPartition(os.DirFS("/sys/block"), os.DirFS("/dev"), v.PartUUID)
		}
		switch {
		case err == nil:
			return disk, nil
		case errors.Is(err, blockdev.ErrAmbiguous):
			return nil, fail.several.because(err)
		case time.Now().After(deadline):
			return nil, fail.none.because(err)
		}
		time.Sleep(pollEvery)
	}
}

// openConsole gives guestinit and, after it, the root's init its standard
// streams.
func (b *boot) openConsole() {
	fd, err := unix.Open("/dev/console", unix.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		return
	}
	for std := range 3 {
		if fd != std {
			_ = unix.Dup3(fd, std, 0)
		}
	}
	if fd > 2 {
		unix.Close(fd)
	}
}

// openPort opens the readiness port. A guest without one boots all the same.
func (b *boot) openPort() {
	if text, err := os.ReadFile("/proc/sys/kernel/random/boot_id"); err == nil {
		b.bootID = parseUUID(string(text))
	}
	var port progress.Port
	if serial, err := progress.OpenSerial(); err == nil {
		b.port, port = serial, serial
	}
	b.stages = progress.New(port, b.bootID)
}

func (b *boot) pass(stage string) { b.stages.Pass(stage, millis()) }

// powerOff is the one place where a failure ends: code and sentence on port and
// console, then power-off. It does not return.
func (b *boot) powerOff(err error) {
	f := failInternal
	errors.As(err, &f)
	b.stages.Fail(string(f), millis())
	if fd, err := unix.Open("/dev/console", unix.O_WRONLY|unix.O_NOCTTY|unix.O_NONBLOCK, 0); err == nil {
		_, _ = unix.Write(fd, []byte("\r\nsecexec: guest stopped: "+f.Error()+"\r\n"))
	}
	unix.Sync()
	time.Sleep(50 * time.Millisecond) // for console and port to drain; nobody is asked
	_ = unix.Reboot(unix.LINUX_REBOOT_CMD_POWER_OFF)
	_ = unix.Reboot(unix.LINUX_REBOOT_CMD_HALT)
	for {
		time.Sleep(time.Hour)
	}
}

// millis is the time since the kernel started.
func millis() uint64 {
	var t unix.Timespec
	if unix.ClockGettime(unix.CLOCK_BOOTTIME, &t) != nil {
		return 0
	}
	return uint64(t.Nano() / int64(time.Millisecond))
}

// parseUUID parses a UUID's text; anything else gives zeros.
func parseUUID(s string) (id [readiness.IDSize]byte) {
	digits := strings.ReplaceAll(strings.TrimSpace(s), "-", "")
	if len(digits) != 2*len(id) {
		return id
	}
	for i := range id {
		hi, lo := strings.IndexByte("0123456789abcdef", digits[2*i]), strings.IndexByte("0123456789abcdef", digits[2*i+1])
		if hi < 0 || lo < 0 {
			return [readiness.IDSize]byte{}
		}
		id[i] = byte(hi<<4 | lo)
	}
	return id
}
