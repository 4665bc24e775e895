# opkg runs this after an upgrade, too; what does not run is not started.
if here && /etc/init.d/torbpf running; then
	/etc/init.d/torbpf restart
fi
