if [ "$1" = remove ] && here; then
	[ ! -d /run/systemd/system ] || deb-systemd-invoke stop torbpf.service
	detach
fi
