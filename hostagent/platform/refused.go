package platform

import "fmt"

// RefusedError says that the ultravisor did not accept the guest's image.
type RefusedError struct {
	Command uint16 `json:"command"` // ultravisor command
	RC      uint16 `json:"rc"`      // its return code
	RRC     uint16 `json:"rrc"`     // its return reason code
	Words   string `json:"words"`   // what that means, in words
}

func (e *RefusedError) Error() string {
	return fmt.Sprintf("ultravisor refused the image: %s (command 0x%04x, rc 0x%04x, rrc 0x%04x)", e.Words, e.Command, e.RC, e.RRC)
}
