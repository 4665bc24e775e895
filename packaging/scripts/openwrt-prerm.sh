# opkg says what it is about, apk runs this for a removal alone.
if [ "${1:-remove}" != upgrade ] && here; then
	/etc/init.d/torbpf stop
	detach
	/etc/init.d/torbpf disable
fi
