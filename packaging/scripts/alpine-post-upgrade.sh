if here && command -v rc-service >/dev/null; then
	rc-service --ifstarted torbpf restart ||
		echo "torbpf run of the new version did not start; what was in force stays. See /var/log/torbpf.log." >&2
fi
