package abi

//go:generate go tool bpf2go -target bpfel -go-package abi -output-suffix "" -cc clang -strip llvm-strip -cflags "-O2 -g -Wall -Wextra -Werror" -type verdict -type reason -type policy -type local_mode -type local_addr -type verdict_bit -type limit -type near_group -type explained -type refusal -type list_shape -type list_leaf4 -type list_leaf6 -type list_slot -type fate -type domain_limit -type device_key -type shortcut4 -type shortcut6 -type client_mode -type identity_kind -type fast_program -type fast_way Datapath ../../bpf/torbpf.bpf.c -- -I/usr/include/x86_64-linux-gnu
//go:generate go tool bpf2go -target bpfel -go-package abi -output-suffix "" -no-global-types -cc clang -strip llvm-strip -cflags "-O2 -g -Wall -Wextra -Werror" Guards ../../bpf/guards.bpf.c -- -I/usr/include/x86_64-linux-gnu
//go:generate go tool bpf2go -target bpfel -go-package abi -output-suffix "" -no-global-types -type program_key -type above_class -cc clang -strip llvm-strip -cflags "-O2 -g -Wall -Wextra -Werror" Client ../../bpf/client.bpf.c -- -I/usr/include/x86_64-linux-gnu
//go:generate go tool bpf2go -target bpfel -go-package abi -output-suffix "" -no-global-types -type fast_permit -type fast_port -cc clang -strip llvm-strip -cflags "-O2 -g -Wall -Wextra -Werror" Fast ../../bpf/fast.bpf.c -- -I/usr/include/x86_64-linux-gnu
//go:generate ./check-generated.sh --record
