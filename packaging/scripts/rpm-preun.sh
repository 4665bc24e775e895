# 0: the last version goes.
if [ "$1" = 0 ] && here; then
	[ ! -d /run/systemd/system ] || systemctl stop torbpf.service
	detach
	[ ! -d /run/systemd/system ] || systemctl --no-reload disable torbpf.service
fi
