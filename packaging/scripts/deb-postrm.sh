if [ "$1" = remove ] && here && [ -d /run/systemd/system ]; then
	systemctl --system daemon-reload || true
fi
# Files that torbpf was told to read, such as bridges and lists, are left alone.
if [ "$1" = purge ]; then
	rm -rf /var/lib/torbpf /etc/torbpf/torbpf.d
	rm -f /etc/torbpf/torbpf.toml /etc/systemd/system/multi-user.target.wants/torbpf.service
	[ ! -d /etc/torbpf ] || rmdir --ignore-fail-on-non-empty /etc/torbpf
fi
