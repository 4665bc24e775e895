if here; then
	! command -v rc-service >/dev/null || rc-service --ifstarted torbpf stop
	detach
	# It fails where the service is in any one of the runlevels not.
	! command -v rc-update >/dev/null || rc-update --all --quiet delete torbpf || true
fi
