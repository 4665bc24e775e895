# Writes a set as TOML: values first, then tables, each below its own heading, by name. Strings,
# numbers, booleans and lists of them are the same in JSON; null and empty sets are left out.
let
  inherit (builtins) attrNames concatMap concatStringsSep filter isAttrs isList toJSON all;

  isTables = value: isList value && value != [ ] && all isAttrs value;

  # Of a set, the names of what satisfies a condition.
  those = condition: set: filter (name: set.${name} != null && condition set.${name}) (attrNames set);

  values = set:
    map (name: "${name} = ${toJSON set.${name}}") (those (value: !isAttrs value && !isTables value) set);

  # A set with its heading, and the sets in it with theirs.
  table = heading: set:
    let own = values set;
    in (if own == [ ] then [ ] else [ (concatStringsSep "\n" (heading ++ own)) ]);

  tables = path: set:
    table (if path == [ ] then [ ] else [ "[${concatStringsSep "." path}]" ]) set
    ++ concatMap (name: tables (path ++ [ name ]) set.${name}) (those isAttrs set)
    ++ concatMap
      (name: concatMap (table [ "[[${concatStringsSep "." (path ++ [ name ])}]]" ]) set.${name})
      (those isTables set);
in
set: concatStringsSep "\n\n" (tables [ ] set) + "\n"
