// Nodes are made here and nowhere else. Texts become text, never HTML: names of devices are
// chosen by strangers.

const svgNS = "http://www.w3.org/2000/svg";

export const find = (id) => document.getElementById(id);

// make returns an element with attributes and children, which are nodes or texts.
export function make(tag, attributes = {}, ...children) {
  return fill(document.createElement(tag), attributes, children);
}

// draw is make for SVG.
export function draw(tag, attributes = {}, ...children) {
  return fill(document.createElementNS(svgNS, tag), attributes, children);
}

function fill(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (value !== false && value !== undefined) node.setAttribute(name, value === true ? "" : value);
  }
  node.append(...children);
  return node;
}

// write sets a text, if it is another: what has not changed is not read out again.
export function write(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

// keeper returns what makes a list show some things, each by a node that stays while the thing
// does, so that who is at one of its buttons remains there. make(thing) returns
// { node, update(thing) }.
export function keeper(list, nameOf, make) {
  const shown = new Map();
  return (things) => {
    const names = new Set(things.map(nameOf));
    for (const [name, one] of shown) {
      if (!names.has(name)) {
        one.node.remove();
        shown.delete(name);
      }
    }
    things.forEach((thing, place) => {
      let one = shown.get(nameOf(thing));
      if (!one) {
        one = make(thing);
        shown.set(nameOf(thing), one);
      }
      one.update(thing);
      if (list.children[place] !== one.node && !one.node.contains(document.activeElement)) {
        list.insertBefore(one.node, list.children[place] ?? null);
      }
    });
  };
}
