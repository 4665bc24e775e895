# torbpf on NixOS, with the options of the module networking.tor (docs/NETWORKING-TOR.md): they
# become /etc/torbpf/torbpf.toml, which `torbpf run` keeps in force.
{ config, lib, pkgs, ... }:

let
  inherit (lib) mkDefault mkEnableOption mkIf mkOption types;

  cfg = config.networking.tor;
  toTOML = import ./toml.nix;

  list = description: example: mkOption {
    type = types.listOf types.str;
    default = [ ];
    inherit description example;
  };

  # Of two sets, all of both: lists add up, of single values the second counts.
  both = a: b:
    if builtins.isAttrs a && builtins.isAttrs b then
      a // builtins.mapAttrs (name: value: if a ? ${name} then both a.${name} value else value) b
    else if builtins.isList a && builtins.isList b then a ++ b
    else b;

  # What is of a mode that is off is left out, and so are lists without entries.
  some = entries: if entries == [ ] then null else entries;
  settings = both
    {
      interfaces = if cfg.router.enable then cfg.router.interfaces else null;
      tor = {
        binary = "${cfg.tor}/bin/tor";
        onion4 = cfg.VirtualAddrNetworkIPv4;
      };
      exclusions = if !cfg.router.enable then { } else {
        destinations = some cfg.router.allowedDestinations;
        sources = some cfg.router.allowedSources;
      };
      client = if !cfg.client.enable then { } else {
        enable = true;
        proxy_port = if cfg.client.clearnet-proxy.enable then cfg.client.clearnet-proxy.port else null;
        exclusions = {
          destinations = some cfg.client.allowedDestinations;
          interfaces = some cfg.client.allowedInterfaces;
          marks = some (map toString cfg.client.allowedFwMarks);
        };
      };
    }
    cfg.settings;

  file = toTOML settings;

  # Whether devices may send anything directly, which the kernel has to forward.
  forwards = cfg.router.enable && cfg.router.allowedDestinations ++ cfg.router.allowedSources != [ ];

  gone = name: lib.mkRemovedOptionModule [ "networking" "tor" name ] ''
    torbpf's chains have priorities of their own, beside the user's, and change nothing that is
    not to be on Tor.
  '';
in
{
  imports = [ (gone "nat-priority") (gone "filter-priority") ];

  options.networking.tor = {
    client = {
      enable = mkEnableOption "Tor for what this machine itself sends";
      allowedDestinations = list "Destinations that this machine reaches directly." [ "104.16.0.0/13" ];
      allowedInterfaces = list "Interfaces: what is routed there goes there, instead of through Tor." [ "wg0" ];
      allowedFwMarks = mkOption {
        type = types.listOf (types.either types.ints.unsigned types.str);
        default = [ ];
        example = [ "0x100" "0x100/0xff00" ];
        description = "Marks that rules of this machine's set, whose packets go directly.";
      };
      clearnet-proxy = {
        enable = mkEnableOption "an HTTP proxy at loopback whose own traffic goes directly";
        port = mkOption {
          type = types.port;
          default = 3128;
          description = "Where it listens.";
        };
      };
    };

    router = {
      enable = mkEnableOption "Tor for what other machines send through this one";
      interfaces = list "Interfaces that these machines are behind." [ "eth1" ];
      allowedDestinations = list "Destinations that they reach directly." [ "104.16.0.0/13" ];
      allowedSources = list "Those of them that are not on Tor." [ "192.168.1.7" ];
    };

    VirtualAddrNetworkIPv4 = mkOption {
      type = types.nullOr types.str;
      default = null;
      example = "10.64.0.0/10";
      description = "Where names under .onion are mapped; null: where no local route is.";
    };

    settings = mkOption {
      type = types.attrsOf types.anything;
      default = { };
      example = { local = "reserved"; };
      description = "All else of torbpf.toml(5). Lists add to those of the other options; of single values these count.";
    };

    package = mkOption {
      type = types.package;
      default = pkgs.callPackage ./package.nix { };
      defaultText = "pkgs.callPackage ./package.nix { }";
      description = "The torbpf to run.";
    };

    tor = mkOption {
      type = types.package;
      default = pkgs.tor;
      defaultText = "pkgs.tor";
      description = "The tor that torbpf starts.";
    };
  };

  config = mkIf (cfg.client.enable || cfg.router.enable) {
    assertions = [
      {
        assertion = !cfg.router.enable || cfg.router.interfaces != [ ];
        message = ''networking.tor.router.interfaces is empty: name the interfaces that the other machines are behind, such as [ "eth1" ]'';
      }
      {
        assertion = !cfg.client.clearnet-proxy.enable || cfg.client.enable;
        message = "networking.tor.clearnet-proxy is a way past Tor for this machine, which is not on Tor: set networking.tor.client.enable, or leave the proxy out";
      }
    ];

    environment.etc."torbpf/torbpf.toml".text = file;
    environment.systemPackages = [ cfg.package ];

    # The unit is the package's. What it has put into the kernel stays while it is exchanged.
    systemd.packages = [ cfg.package ];
    systemd.services.torbpf = {
      wantedBy = [ "multi-user.target" ];
      reloadTriggers = [ file ];
      stopIfChanged = false;
    };

    # The account that the managed tor runs under, as services.tor has it.
    users.users.tor = {
      isSystemUser = mkDefault true;
      group = mkDefault "tor";
    };
    users.groups.tor = { };

    # Tor needs no forwarding.
    boot.kernel.sysctl = mkIf forwards { "net.ipv4.conf.all.forwarding" = mkDefault true; };
  };
}
