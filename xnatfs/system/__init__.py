"""At home on a system: helpers of mount(8), systemd units, man pages, shell completion, the protocol of sd_notify."""
