"""The shape of the mount: pure, no I/O, no clock."""
