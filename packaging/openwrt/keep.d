/etc/torbpf/
