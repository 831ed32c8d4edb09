/* Draws one item of a row, and the map over it. */

/** The coloured bands of a map along a time axis of length `whole`. */
function timeBands(part, most, whole, unit) {
  const shape = svg("svg", { class: "bands", viewBox: "0 0 1000 10", preserveAspectRatio: "none", "aria-hidden": "true" });
  (part?.times ?? []).forEach(([from, to], place) => {
    const start = Math.max(0, from), end = Math.min(whole, to), value = part.values[place];
    if (!(end > start) || !isNumber(value)) return;
    const [x, width] = [(1000 * start) / whole, (1000 * (end - start)) / whole];
    const band = svg("rect", { x, width, y: 0, height: 10 }, svg("title", {}, `${figure(from)} to ${figure(to)} ${unit}: ${figure(value, part.signed)}`));
    tint(band, value, part, most);
    shape.append(band);
  });
  return shape;
}

function timeAxis(whole, unit) {
  const ticks = [0, 0.25, 0.5, 0.75, 1].map((share) => element("span", {}, figure(share * whole)));
  ticks.at(-1).append(` ${unit}`);
  return element("div", { class: "axis", "aria-hidden": "true" }, ticks);
}

/** A picture with its map on top. `area` is the part of the picture that the map covers: top, left, bottom, right, as shares. */
function pictureWith(source, alternative, grid, part, most) {
  const picture = element("img", { src: source, alt: alternative });
  const whole = element("div", { class: "under" }, picture);
  if (grid?.length) {
    const heat = heatMap(grid, part.signed, most, saidOfMap(grid));
    const [top, left, bottom, right] = part.area ?? [0, 0, 1, 1];
    Object.assign(heat.style, { left: `${100 * left}%`, top: `${100 * top}%`, width: `${100 * (right - left)}%`, height: `${100 * (bottom - top)}%` });
    heat.addEventListener("pointermove", (event) => {
      const y = Math.floor((event.offsetY / heat.clientHeight) * grid.length);
      const x = Math.floor((event.offsetX / heat.clientWidth) * (grid[y]?.length ?? 0));
      heat.title = figure(grid[y]?.[x], part.signed);
    });
    whole.append(heat);
  }
  return whole;
}

/** The spans of a text map with their values, in order and without overlaps. Positions count code points: an emoji is one. */
function spansOf(part, characters) {
  const spans = (part?.spans ?? []).map(([start, end], place) => ({ start, end: Math.min(end, characters.length), value: part.values[place] }));
  let last = 0;
  return spans.sort((one, other) => one.start - other.start).filter((span) => {
    const fits = span.start >= last && span.end > span.start;
    if (fits) last = span.end;
    return fits;
  });
}

/* One drawing function per kind of item. Its arguments: the content, the map (may be missing), the largest value of the
   map, and the name of the item. It returns elements. */
const DRAW = {
  picture: (shown, part, most, name) => [
    element("div", { class: "picture" }, pictureWith(shown.src, name, part?.values, part, most)),
  ],
  video(shown, part, most, name) {
    const frames = shown.frames.map((frame, number) => {
      const when = isNumber(shown.seconds?.[number]) ? `${figure(shown.seconds[number])} s` : `frame ${number + 1}`;
      return element("li", {}, pictureWith(frame, `${name}, ${when}`, part?.values?.[number], part, most), element("span", { class: "quiet" }, when));
    });
    return [element("ol", { class: "strip" }, frames)];
  },
  text(shown, part, most, name) {
    const characters = Array.from(shown.text), said = element("p", { class: "words", dir: "auto" });
    let last = 0;
    const plain = (end) => end > last && said.append(characters.slice(last, end).join(""));
    for (const { start, end, value } of spansOf(part, characters)) {
      plain(start);
      const number = figure(value, part.signed);
      const word = element("span", { title: number }, characters.slice(start, end).join(""), element("span", { class: "unseen" }, ` (${number}) `));
      tint(word, value, part, most);
      said.append(word);
      last = end;
    }
    plain(characters.length);
    return [element("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": name }, said)];
  },
  sound(shown, part, most, name) {
    const line = element("i", { class: "playhead", hidden: true });
    const player = element("audio", { controls: true, preload: "metadata", src: shown.src, "aria-label": name });
    const follow = () => {
      line.hidden = !(player.currentTime > 0);
      line.style.left = `${(100 * player.currentTime) / shown.seconds}%`;
      if (!player.paused) requestAnimationFrame(follow);
    };
    ["play", "seeked", "timeupdate", "ended"].forEach((event) => player.addEventListener(event, follow));
    const axis = element("div", { class: "time" }, element("img", { class: "spectrogram", src: shown.spectrogram, alt: `spectrogram of ${name}` }),
      part ? timeBands(part, most, shown.seconds, "s") : null, line);
    axis.addEventListener("click", (event) => {
      player.currentTime = ((event.clientX - axis.getBoundingClientRect().left) / axis.clientWidth) * shown.seconds;
    });
    return [axis, timeAxis(shown.seconds, "s"), player];
  },
  series(shown, part, most, name) {
    const every = shown.every ?? 1, unit = "steps", steps = Math.max(1, ...shown.values.map((channel) => channel.length));
    const panels = shown.values.map((channel, number) => {
      const numbers = channel.filter(isNumber), low = Math.min(...numbers), high = Math.max(...numbers);
      const lines = [[]];
      channel.forEach((value, step) => {
        if (isNumber(value)) lines.at(-1).push(`${(1000 * (step + 0.5)) / steps},${9.5 - (9 * (value - low)) / (high - low || 1)}`);
        else if (lines.at(-1).length) lines.push([]);
      });
      const drawn = svg("svg", { class: "lines", viewBox: "0 0 1000 10", preserveAspectRatio: "none", role: "img", "aria-label": `${name}, ${shown.channels[number]}` });
      drawn.append(...lines.filter((line) => line.length).map((line) => svg("polyline", { points: (line.length > 1 ? line : [line[0], line[0]]).join(" ") })));
      const range = numbers.length ? `${figure(low)} to ${figure(high)}` : "no reading";
      return element("div", {}, element("div", { class: "quiet" }, data(shown.channels[number]), `: ${range}`),
        element("div", { class: "time" }, part ? timeBands(part, most, steps * every, unit) : null, drawn));
    });
    return [element("div", { class: "channels" }, panels), timeAxis(steps * every, unit)];
  },
  table(shown, part, most) {
    const low = part?.signed ? -most : 0;
    const lines = shown.columns.map((column, place) => {
      const value = part?.values?.[place];
      const mapped = part ? element("td", {}, isNumber(value) ? [bar(value, low, most, part.signed ? "" : "size"), ` ${figure(value, part.signed)}`] : null) : null;
      return element("tr", {}, element("th", { scope: "row" }, data(column)), element("td", {}, data(shown.values[place] ?? "")), mapped);
    });
    return [element("table", { class: "columns" }, element("tbody", {}, lines))];
  },
  other: (shown, part, most, name) => DRAW.text(shown, part?.spans ? part : null, most, name),
};

/** All numbers of a map, as table rows. */
function numbersOf(item, part) {
  const shown = item.shown, cell = (value) => element("td", { class: "number" }, figure(value, part.signed));
  const line = (name, ...values) => element("tr", {}, element("th", { scope: "row" }, data(name)), values.map(cell));
  if (item.kind === "picture") return part.values.map((row, number) => line(`row ${number + 1}`, ...row));
  if (item.kind === "video")
    return part.values.flatMap((grid, frame) => grid.map((row, number) => line(`frame ${frame + 1}, row ${number + 1}`, ...row)));
  const characters = part.spans ? Array.from(shown.text ?? "") : [];
  const names = part.spans?.map(([start, end]) => characters.slice(start, end).join("")) ??
    part.times?.map(([from, to]) => `${figure(from)} to ${figure(to)}`) ?? shown.columns ?? [];
  return part.values.map((value, place) => line(names[place] ?? place + 1, value));
}

function numbersBelow(item, part) {
  const whole = element("details", { class: "numbers" }, element("summary", {}, "The numbers"));
  whole.addEventListener("toggle", () => {
    if (whole.open && whole.children.length === 1)
      whole.append(element("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": "the numbers of the map" }, element("table", {}, element("tbody", {}, numbersOf(item, part)))));
  });
  return whole;
}

/** The slider for the opacity of a map over pictures. */
function opacity(host) {
  const input = element("input", { type: "range", min: 0, max: 100, step: 5, value: 70 });
  const set = () => host.style.setProperty("--opacity", input.value / 100);
  input.addEventListener("input", set);
  set();
  return element("label", { class: "screen" }, "Map over the picture ", input);
}

/** An item with its maps. `parts` are the maps of this item, each with the `task` that it explains. */
function drawItem(item, parts, several) {
  const places = [words(item.modality), item.kind === "table" || item.column === item.modality ? null : item.column];
  const name = places.filter((text) => text !== null && text !== undefined).join(", ");
  const host = element("figure", { class: `item ${item.kind in DRAW ? item.kind : "other"}` });
  const heading = element("figcaption", {}, element("strong", {}, data(places[0])), places[1] ? [" \u00b7 ", data(places[1])] : null);
  const body = element("div");
  const draw = (part) => {
    const most = part ? largest(part) : 0, kind = DRAW[item.kind] ? item.kind : "other";
    body.replaceChildren(...DRAW[kind](item.shown ?? {}, part, most, name));
    if (!part) return;
    if (kind === "picture" || kind === "video") body.append(opacity(host));
    body.append(element("div", {}, legend(part, most, !["picture", "video"].includes(kind)), most ? null : " All values of this map are 0."));
    for (const check of about.failed)
      body.append(element("p", { class: "warning" }, `Do not rely on this map: it failed the check \u201c${words(check.name)}\u201d. ${check.says}`));
    body.append(numbersBelow(item, part));
  };
  host.append(heading);
  if (parts.length > 1) {
    const chosen = element("select", {}, parts.map(({ part, task }, place) => element("option", { value: place }, [several ? task : null, words(part.method)].filter(Boolean).join(": "))));
    chosen.addEventListener("change", () => draw(parts[chosen.value].part));
    host.append(element("label", {}, "Map ", chosen));
  } else if (parts.length) heading.append(element("span", { class: "quiet" }, ` \u00b7 ${words(parts[0].part.method)}`));
  host.append(body);
  draw(parts[0]?.part);
  return host;
}
