# Evaluates the module without nixpkgs, of whose library this is as much as the module needs:
# options with their types and defaults, what is set over them, and the configuration that the
# module makes of it. What is set and no option, or of another type, is an error.
{ set }:

let
  inherit (builtins) all any attrNames concatStringsSep elem filter foldl' fromJSON isAttrs isBool isInt isList isString mapAttrs;

  type = name: check: { inherit name check; };
  lib = {
    mkOption = option: option // { _type = "option"; };
    mkEnableOption = what: lib.mkOption { type = lib.types.bool; default = false; description = "Whether to enable ${what}."; };
    mkIf = condition: content: if condition then content else { };
    mkDefault = value: value;
    mkRemovedOptionModule = path: message: { removed = concatStringsSep "." path; inherit message; };
    types = rec {
      bool = type "boolean" isBool;
      str = type "string" isString;
      port = type "port" (v: isInt v && v >= 0 && v <= 65535);
      ints.unsigned = type "unsigned" (v: isInt v && v >= 0);
      package = type "package" isAttrs;
      anything = type "anything" (v: true);
      listOf = of: type "list of ${of.name}" (v: isList v && all of.check v);
      attrsOf = of: type "set of ${of.name}" (v: isAttrs v && all (name: of.check v.${name}) (attrNames v));
      nullOr = of: type "${of.name} or null" (v: v == null || of.check v);
      either = a: b: type "${a.name} or ${b.name}" (v: a.check v || b.check v);
    };
  };

  package = name: { outPath = "/nix/store/of-${name}"; };
  pkgs = { tor = package "tor"; callPackage = path: _: package "torbpf"; };

  isOption = value: value._type or "" == "option";

  # What of the options is set, and else their defaults.
  values = path: options: set:
    let unknown = filter (name: !options ? ${name}) (attrNames set);
    in
    if unknown != [ ] then throw "The option `${concatStringsSep "." (path ++ unknown)}' does not exist."
    else mapAttrs
      (name: option:
        let at = concatStringsSep "." (path ++ [ name ]); given = set.${name} or (option.default or (throw "The option `${at}' is not set."));
        in
        if !isOption option then values (path ++ [ name ]) option (set.${name} or { })
        else if option.type.check given then given
        else throw "The option `${at}' is not of type ${option.type.name}.")
      options;

  names = path: options: foldl'
    (found: name: found ++ (if isOption options.${name} then [ (concatStringsSep "." (path ++ [ name ])) ] else names (path ++ [ name ]) options.${name}))
    [ ]
    (attrNames options);

  module = import ../module.nix { inherit config lib pkgs; };
  given = fromJSON set;
  removed = filter (m: any (name: m.removed == "networking.tor.${name}") (attrNames given)) module.imports;
  config.networking.tor =
    if removed != [ ] then throw "The option `${(builtins.head removed).removed}' is gone: ${(builtins.head removed).message}"
    else values [ "networking" "tor" ] module.options.networking.tor given;
  made = module.config;
in
{
  options = names [ ] module.options.networking.tor;
  file = made.environment.etc."torbpf/torbpf.toml".text or "";
  failed = map (a: a.message) (filter (a: !a.assertion) (made.assertions or [ ]));
  wanted = made.systemd.services.torbpf.wantedBy or [ ];
  units = map toString (made.systemd.packages or [ ]);
  forwarding = made.boot.kernel.sysctl or { };
}
