package main

import (
	"encoding/hex"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/secexec/secexec/cmd/secexec/term"
	"github.com/secexec/secexec/seimage"
)

func newImageInfo() *cobra.Command {
	var asJSON bool
	var hdrKey string
	cmd := &cobra.Command{
		Use:   "info IMAGE",
		Short: "Show an image's SE header",
		Args:  cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			f, size, err := openRegular(args[0])
			if err != nil {
				return fmt.Errorf("open image: %w", err)
			}
			defer f.Close()
			img, err := seimage.Open(f, size)
			if err != nil {
				return err
			}
			verified := "not checked: give --hdr-key"
			if hdrKey != "" {
				key, err := readKey(hdrKey, seimage.HeaderKeySize)
				if err != nil {
					return err
				}
				defer key.Wipe()
				secrets, err := img.Header.Open(key)
				if err != nil {
					return fmt.Errorf("open SE header with %s: %w", hdrKey, err)
				}
				secrets.Wipe()
				verified = "authentic"
			}
			return showImage(cmd, img, size, verified, asJSON)
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	cmd.Flags().StringVar(&hdrKey, "hdr-key", "", "file with the header protection key: checks that the header is authentic")
	return cmd
}

func showImage(cmd *cobra.Command, img *seimage.Image, size int64, verified string, asJSON bool) error {
	h := img.Header
	var slots []string
	for _, s := range h.Slots {
		slots = append(slots, hex.EncodeToString(s.HostHash[:]))
	}
	if asJSON {
		return printJSON(cmd, map[string]any{
			"size": size, "version": fmt.Sprintf("0x%x", seimage.HeaderVersion), "header_address": img.HeaderAddr, "header_size": h.Size(),
			"header": verified, "key_slots": slots, "encrypted_pages": h.NEP, "pcf": fmt.Sprintf("0x%016x", uint64(h.PCF)), "flags": h.PCF.String(),
			"pld": hex.EncodeToString(h.PLD[:]), "ald": hex.EncodeToString(h.ALD[:]), "tld": hex.EncodeToString(h.TLD[:]),
			"components": len(img.IPIB.Components), "legacy": img.Legacy,
		})
	}
	return term.Fields(cmd.OutOrStdout(),
		"size", fmt.Sprintf("%d bytes (%s)", size, mib(size)),
		"SE header", fmt.Sprintf("version 0x%x at 0x%x, %d bytes, %s", seimage.HeaderVersion, img.HeaderAddr, h.Size(), verified),
		"key slots", strings.Join(slots, " "),
		"encrypted pages", fmt.Sprint(h.NEP),
		"flags", h.PCF.String(),
		"components", fmt.Sprint(len(img.IPIB.Components)),
		"PLD", hex.EncodeToString(h.PLD[:]),
		"ALD", hex.EncodeToString(h.ALD[:]),
		"TLD", hex.EncodeToString(h.TLD[:]))
}
