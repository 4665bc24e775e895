# An upgrade ($1 is 2) exchanges a daemon that runs; see deb-postinst.sh.
if here && [ -d /run/systemd/system ]; then
	systemctl daemon-reload || true
	if [ "$1" -ge 2 ]; then
		systemctl try-restart torbpf.service ||
			echo "torbpf run of the new version did not start; what was in force stays. See journalctl -u torbpf." >&2
	fi
fi
