# Nothing is started that was not running: `torbpf enable` does so, once there is something to
# put on Tor. What is in the kernel blocks while the daemon is exchanged.
if [ "$1" = configure ] && [ -n "$2" ] && here && [ -d /run/systemd/system ]; then
	systemctl --system daemon-reload || true
	deb-systemd-invoke try-restart torbpf.service ||
		echo "torbpf run of the new version did not start; what was in force stays. See journalctl -u torbpf." >&2
fi
# Its removal has failed, and it was stopped.
if [ "$1" = abort-remove ] && here && [ -d /run/systemd/system ] && systemctl --quiet is-enabled torbpf.service; then
	deb-systemd-invoke start torbpf.service || true
fi
