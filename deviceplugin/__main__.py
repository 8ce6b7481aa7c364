"""``python -m deviceplugin`` is the same as ``mdev-device-plugin``."""

from deviceplugin.cli import main

main()
