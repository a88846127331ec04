package seimage

import (
	_ "embed"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"time"
)

// InfoSchema is the JSON schema (draft 7) of Info. Documents of pvimg 2.43
// satisfy it too, and ours satisfy pvimg's.
//
//go:embed info-v1.schema.json
var InfoSchema []byte

// Info is what is told of an SE header in JSON: names and order are those of
// "pvimg info --format json", api_level 1.
type Info struct {
	Meta InfoMeta   `json:"meta"`
	Data InfoHeader `json:"data"`
}

// InfoMeta tells who made the document and when.
type InfoMeta struct {
	APILevel  int    `json:"api_level"`
	Version   string `json:"version"` // of the tool
	Host      string `json:"host"`
	TimeEpoch int64  `json:"time_epoch"` // seconds
	Time      string `json:"time"`       // 2006-01-02 15:04:05-0700
}

// InfoHeader is an SE header. It has either the encrypted area or, decrypted,
// what is in it.
type InfoHeader struct {
	Kind        string     `json:"kind"`
	Verified    bool       `json:"verified"` // authentic under the header key
	Magic       hexBytes   `json:"magic_hex"`
	Version     string     `json:"version"`
	Size        int        `json:"sehs"`
	IV          hexBytes   `json:"iv_hex"`
	NKS         int        `json:"nks"`
	SEA         int        `json:"sea"`
	NEP         uint64     `json:"nep"`
	PCF         hexNumber  `json:"pcf_hex"`
	CustomerKey infoPoint  `json:"cust_pub_key"`
	PLD         hexBytes   `json:"pld_hex"`
	ALD         hexBytes   `json:"ald_hex"`
	TLD         hexBytes   `json:"tld_hex"`
	Slots       []infoSlot `json:"keyslots"`
	Encrypted   []byte     `json:"cipher_data_b64,omitempty"`
	*InfoSecrets
	Tag hexBytes `json:"tag_hex"`
}

// InfoSecrets are the secrets of a decrypted header, to be printed: JSON makes
// copies of them that nobody wipes.
type InfoSecrets struct {
	CommKey  hexBytes  `json:"cck_hex"`
	ImageKey hexBytes  `json:"xts_hex"`
	PSW      infoPSW   `json:"psw"`
	SCF      hexNumber `json:"scf_hex"`
}

type infoPoint struct {
	Coordinates hexBytes `json:"coord_hex"`
}

type infoSlot struct {
	HostHash hexBytes `json:"phkh_hex"`
	Wrapped  hexBytes `json:"wrpk_hex"`
	Tag      hexBytes `json:"kst_hex"`
}

type infoPSW struct {
	Mask hexNumber `json:"mask_hex"`
	Addr hexNumber `json:"addr_hex"`
}

// hexBytes is a hexadecimal string in JSON.
type hexBytes []byte

func (b hexBytes) MarshalJSON() ([]byte, error) {
	out := append(make([]byte, 0, 2+hex.EncodedLen(len(b))), '"')
	return append(hex.AppendEncode(out, b), '"'), nil
}

// hexNumber is a hexadecimal string of 16 digits in JSON.
type hexNumber uint64

func (n hexNumber) MarshalJSON() ([]byte, error) { return fmt.Appendf(nil, `"%016x"`, uint64(n)), nil }

// NewInfo tells of a header. Verified says that it opened under the header key.
// Secrets, nil unless they are to be shown, stay the caller's and must live as
// long as the document.
func NewInfo(h *Header, verified bool, secrets *Secrets, meta InfoMeta) *Info {
	d := InfoHeader{
		Kind: "se_hdr", Verified: verified, Magic: hexBytes(HeaderMagic), Version: "V1", Size: h.Size(),
		IV: h.IV[:], NKS: len(h.Slots), SEA: len(h.Encrypted), NEP: h.NEP, PCF: hexNumber(h.PCF),
		CustomerKey: infoPoint{h.CustomerKey[:]}, PLD: h.PLD[:], ALD: h.ALD[:], TLD: h.TLD[:],
		Encrypted: h.Encrypted, Tag: h.Tag[:],
	}
	for i := range h.Slots {
		s := &h.Slots[i]
		d.Slots = append(d.Slots, infoSlot{s.HostHash[:], s.Wrapped[:], s.Tag[:]})
	}
	if secrets != nil {
		d.Kind, d.Encrypted = "decrypted_se_hdr", nil
		d.InfoSecrets = &InfoSecrets{
			CommKey: hexBytes(secrets.CommKey), ImageKey: hexBytes(secrets.ImageKey),
			PSW: infoPSW{hexNumber(secrets.PSW.Mask), hexNumber(secrets.PSW.Addr)}, SCF: hexNumber(secrets.SCF),
		}
	}
	return &Info{Meta: meta, Data: d}
}

// NewInfoMeta fills in the record about the tool.
func NewInfoMeta(version, host string, now time.Time) InfoMeta {
	now = now.UTC()
	return InfoMeta{APILevel: 1, Version: version, Host: host, TimeEpoch: now.Unix(), Time: now.Format("2006-01-02 15:04:05-0700")}
}

// JSON is the document as pvimg prints it: indented by two spaces, or minified;
// with a newline.
func (i *Info) JSON(minify bool) ([]byte, error) {
	var b []byte
	var err error
	if minify {
		b, err = json.Marshal(i)
	} else {
		b, err = json.MarshalIndent(i, "", "  ")
	}
	return append(b, '\n'), err
}

// Words says in pvimg's words what the set flags allow.
func (f Flags) Words() []string {
	return words(uint64(f), uint64(KnownFlags), map[uint64]string{
		uint64(AllowDump): "allow dumping", uint64(NoEncryption): "no component encryption",
		uint64(PCKMODEA): "DEA and TDEA PCKMO support", uint64(PCKMOAES): "AES PCKMO support", uint64(PCKMOECC): "ECC PCKMO support",
		uint64(PCKMOHMAC): "HMAC PCKMO support", uint64(BackupKeys): "backup target keys support",
	})
}

// Words says in pvimg's words what the set flags ask for.
func (f SecretFlags) Words() []string {
	return words(uint64(f), uint64(KnownSecretFlags), map[uint64]string{
		uint64(CCKExtensionSecret): "CCK extension secret enforced", uint64(CCKUpdate): "CCK update allowed",
	})
}

// words lists the names of set bits from the most significant on, unknown ones
// last.
func words(set, known uint64, names map[uint64]string) (out []string) {
	for bit := uint64(1) << 63; bit != 0; bit >>= 1 {
		if set&known&bit != 0 {
			out = append(out, names[bit])
		}
	}
	if rest := set &^ known; rest != 0 {
		out = append(out, fmt.Sprintf("unknown flags 0x%016x", rest))
	}
	return out
}
