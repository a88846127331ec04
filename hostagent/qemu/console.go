package qemu

// console is the SCLP line-mode console, the one a guest's kernel has from its
// first message on. Its output is appended to a file, so QEMU never waits for a
// reader and a restarted hostagent misses nothing; there is no input.
func console(c *Config) []string {
	if c.ConsolePath == "" {
		return nil
	}
	argv := []string{"-chardev", "file,id=console,path=" + escape(c.file(c.ConsolePath)) + ",append=on"}
	return append(argv, device(object{{"driver", "sclpconsole"}, {"id", "sclp0"}, {"chardev", "console"}})...)
}
