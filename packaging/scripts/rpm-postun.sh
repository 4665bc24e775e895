if here && [ -d /run/systemd/system ]; then
	systemctl daemon-reload || true
fi
