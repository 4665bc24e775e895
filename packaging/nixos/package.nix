# torbpf for nixpkgs' callPackage. The hash is of what `go mod vendor` makes; the test of this
# folder says so when it is not, and writes it with -update.
{ lib, buildGoModule, version ? "unstable" }:

buildGoModule {
  pname = "torbpf";
  inherit version;

  src = lib.cleanSource ../..;
  vendorHash = "sha256-/n/uWeCHpbvprlPJ04sJSg9lQVt5yGwiGmhAxb6+ep0=";
  subPackages = [ "cmd/torbpf" ];
  env.CGO_ENABLED = 0;
  ldflags = [ "-s" "-w" "-X main.version=${version}" ];

  # Most tests need root, network namespaces and a tor.
  doCheck = false;

  postInstall = ''
    mv $out/bin/torbpf .
    make install-files SHELL="$(type -P bash)" INIT=systemd PREFIX=$out UNITDIR=$out/lib/systemd/system
  '';

  meta = {
    description = "Transparent Tor router";
    homepage = "https://github.com/torbpf/torbpf";
    license = [ lib.licenses.mit lib.licenses.gpl2Only ];
    platforms = [ "x86_64-linux" "aarch64-linux" "riscv64-linux" ];
    mainProgram = "torbpf";
  };
}
