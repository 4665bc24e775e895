#!/bin/sh
# What the packages' scripts have in common; packages.sh puts it before each of them.
set -e

# here tells whether this is the system that runs, and no chroot or image of one: there no
# service is to be started anew, and detaching would be the host's.
here() {
	# shellcheck disable=SC3013 # dash, bash and BusyBox all know -ef
	[ -z "${IPKG_INSTROOT:-}" ] && [ /proc/1/root/. -ef /. ]
}

# detach lets traffic out directly again: whoever removes the package wants the host to be as it
# was before, and without the program nobody could detach any more. Where it fails the package
# stays, and so does all that blocks.
detach() {
	code=0
	torbpf detach --all || code=$?
	case $code in
	0 | 3) ;; # 3: nothing is attached
	*)
		echo "torbpf is not removed: what is attached could not be detached, and stays. See \`torbpf check\`, then try again." >&2
		return 1
		;;
	esac
	for left in /run/torbpf/ns-*/state.json; do
		[ ! -e "$left" ] || echo "torbpf is still attached in another network namespace (${left%/state.json}): that stays until a reboot." >&2
	done
}
