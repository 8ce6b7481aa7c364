"""The node itself: the only code that touches sysfs and the device nodes."""
