package store

// Encode returns a guest's record in the form of guest.json.
func Encode(g *Guest) ([]byte, error) { return marshal(g) }

// Decode parses a record that another node sent, as strictly as one from disk.
// Errors wrap ErrDamaged or ErrNewer.
func Decode(text []byte) (*Guest, error) { return unmarshal(text) }
