/* The index of rows with its filters, and the view of one row. */

const main = document.getElementById("main");
const index = about.index;
const distinct = (values) => [...new Set(values)];
const everyAnswer = index.flatMap((entry) => entry.answers);

/** Whether an answer is right, in words. */
function judged(answer) {
  if (answer.right === true) return element("span", { class: "badge right" }, "\u2713 right");
  if (answer.right === false) return element("span", { class: "badge wrong" }, "\u2717 wrong, truth: ", data(answer.truth ?? "something else"));
  return answer.truth === null || answer.truth === undefined ? null : element("span", { class: "badge" }, "truth: ", data(answer.truth));
}

/* The summary over all rows */

function stacked(shares) {
  const names = ["unique", "redundant", "synergistic"].filter((name) => isNumber(shares[name]));
  const whole = element("span", { class: "bar stack", "aria-hidden": "true" }, names.map((name) => {
    const part = element("i", { class: name });
    part.style.width = `${100 * shares[name]}%`;
    return part;
  }));
  const said = names.map((name) => element("span", { class: "share" }, element("i", { class: `key ${name}`, "aria-hidden": "true" }), `${name} ${percent(shares[name])}`));
  return element("div", { class: "shares" }, whole, said);
}

function drawSummary() {
  return Object.entries(about.summary ?? {}).map(([task, { modalities, shares }]) => {
    const numbers = Object.values(modalities ?? {}).flatMap(({ low, high, mean }) => [low, high, mean].filter(isNumber));
    const low = Math.min(0, ...numbers), high = Math.max(0, ...numbers);
    const lines = Object.entries(modalities ?? {}).map(([name, found]) => {
      const drawn = bar(found.mean, low, high);
      if (isNumber(found.low) && isNumber(found.high)) {
        const whisker = element("i", { class: "whisker" });
        whisker.style.left = `${(100 * (found.low - low)) / (high - low || 1)}%`;
        whisker.style.width = `${(100 * (found.high - found.low)) / (high - low || 1)}%`;
        drawn.append(whisker);
      }
      const interval = isNumber(found.low) ? element("span", { class: "quiet" }, ` ${figure(found.low)} \u2026 ${figure(found.high)}`) : null;
      return element("tr", {}, element("th", { scope: "row" }, data(words(name))), element("td", {}, drawn, ` ${figure(found.mean)}`, interval));
    });
    return element("section", {}, element("h2", {}, "What all rows rest on", task && task !== "null" ? [": ", data(task)] : null),
      element("p", { class: "quiet" }, "The average effect of each modality on the answers, regardless of its direction, with a 95 % interval."),
      element("table", { class: "modalities" }, element("tbody", {}, lines)), shares ? stacked(shares) : null);
  });
}

/* One row */

const INTERACTION = {
  synergistic: "contribute more together than separately",
  redundant: "carry at least partly the same information",
};

function drawModalities(answer) {
  const found = Object.entries(answer.modalities ?? {});
  if (!found.length) return [];
  const gave = found.map(([, each]) => each.value).filter(isNumber);
  const reach = Math.max(...gave.map(Math.abs), 0);
  const low = Math.min(0, ...gave) < 0 ? -reach : 0;
  const answers = found.flatMap(([, each]) => [each.with, each.without, each.alone]).filter(isNumber);
  const likely = isNumber(answer.probability) && answers.every((value) => value >= 0 && value <= 1);
  const least = Math.min(...answers), most = Math.max(...answers), room = 0.05 * (most - least) || 1;
  const said = likely ? percent : (value) => figure(value);
  const drawn = (value, kind) => !isNumber(value) ? "\u2013"
    : [likely ? bar(value, 0, 1, kind) : point(value, least - room, most + room), element("span", { class: "said" }, said(value))];
  const all = answer.probability ?? found[0][1].with;
  const head = ["modality", "contribution", `${likely ? "probability" : "answer"} without it`, "with it alone"];
  const table = element("table", { class: "modalities" },
    element("thead", {}, element("tr", {}, head.map((text) => element("th", { scope: "col" }, text)))),
    element("tbody", {}, found.map(([name, each]) => element("tr", {}, element("th", { scope: "row" }, data(words(name))),
      element("td", { "data-label": head[1] }, isNumber(each.value) ? [bar(each.value, low, reach), element("span", { class: "said" }, figure(each.value, true))] : "\u2013"),
      element("td", { "data-label": head[2] }, drawn(each.without, "size")), element("td", { "data-label": head[3] }, drawn(each.alone, "size"))))));
  const together = isNumber(all) ? element("div", { class: "all" }, element("span", {}, `${likely ? "Probability" : "Answer"} with all modalities `), drawn(all, "size")) : null;
  const ends = isNumber(answer.value) && isNumber(answer.base)
    ? ` Without any modality it is ${figure(answer.base)}; the contributions add up to ${figure(answer.value)} with all modalities.` : "";
  return [together, table, answer.explained ? element("p", { class: "quiet" }, "Explained quantity: ", data(answer.explained), ".", ends) : null];
}

/** What else is known about the certainty of an answer, as text. */
function drawConfidence(confidence) {
  const said = (value) => Array.isArray(value) ? value.map(said).join(", ") : isNumber(value) ? figure(value)
    : value !== null && typeof value === "object" ? Object.entries(value).map(([key, each]) => `${words(key)} ${said(each)}`).join("; ") : String(value);
  const lines = Object.entries(confidence ?? {}).filter(([, value]) => value !== null);
  return lines.length ? element("p", {}, "Certainty: ", lines.map(([key, value], place) => [place ? "; " : "", `${words(key)} `, data(said(value))])) : null;
}

/** For a written answer: the contribution of each modality to each token. */
function drawTokens(answer) {
  const tokens = answer.tokens ?? [], names = distinct(tokens.flatMap((token) => Object.keys(token.modalities ?? {})));
  if (!tokens.length) return null;
  const most = tokens.flatMap((token) => Object.values(token.modalities ?? {})).reduce((top, value) => Math.max(top, Math.abs(value)), 0);
  const cell = (value) => {
    const made = element("td", { class: "number" }, figure(value, true));
    tint(made, value, { signed: true }, most);
    return made;
  };
  return element("details", { class: "numbers" }, element("summary", {}, "Token by token"),
    element("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": "contribution of each modality to each token" }, element("table", {},
      element("thead", {}, element("tr", {}, element("th", { scope: "col" }, "token"), names.map((name) => element("th", { scope: "col" }, data(words(name)))))),
      element("tbody", {}, tokens.map((token) => element("tr", {}, element("th", { scope: "row" }, data(token.text ?? "")), names.map((name) => cell(token.modalities?.[name]))))))));
}

function drawAnswer(answer) {
  const pairs = (answer.interactions ?? []).filter(({ kind }) => kind in INTERACTION);
  const interactions = pairs.sort((one, other) => Math.abs(other.value) - Math.abs(one.value)).map(({ of, value, kind }) =>
    element("li", {}, data(of.map(words).join(" and ")), ` ${INTERACTION[kind]} (${kind}, ${figure(value, true)}).`));
  if (pairs.length < (answer.interactions ?? []).length)
    interactions.push(element("li", {}, pairs.length ? "In all other pairs, each modality contributes on its own." : "Each modality contributes on its own."));
  return element("section", { class: "answer" },
    element("h3", {}, answer.task ? [element("span", { class: "quiet" }, data(answer.task), ": ")] : null, data(answer.answer ?? "no answer"), " ", judged(answer)),
    drawConfidence(answer.confidence), drawModalities(answer),
    interactions.length ? element("ul", { class: "interactions" }, interactions) : null,
    answer.shares ? stacked(answer.shares) : null, drawTokens(answer));
}

/* What to ask for next */

const NOTHING = {
  sure: "the answer is certain enough",
  "not worth it": "no missing modality is worth its price",
  unknown: "no known row has the same modalities as this row",
};

/** For a row that lacks modalities: the expected gain of each, and the order in which to obtain them. */
function drawMissing(told) {
  if (!told?.missing?.length) return null;
  const chances = new Map((told.order ?? []).map(({ modality, chance }) => [modality, chance]));
  const plans = "next" in told, prices = about.prices ?? {};
  const gains = told.missing.map((name) => told.gains?.[name]), known = gains.filter(isNumber);
  const low = Math.min(0, ...known), high = Math.max(0, ...known);
  const head = ["missing modality", "expected gain in score", ...(plans ? ["price", "chance that it is needed"] : [])];
  const lines = told.missing.map((name, place) => element("tr", {}, element("th", { scope: "row" }, data(words(name))),
    element("td", { "data-label": head[1] }, isNumber(gains[place]) ? [bar(gains[place], low, high), element("span", { class: "said" }, figure(gains[place], true))] : "unknown"),
    plans ? [element("td", { "data-label": head[2] }, figure(prices[name])), element("td", { "data-label": head[3] }, percent(chances.get(name) ?? 0))] : null));
  const together = (told.together ?? []).filter(({ gain }) => isNumber(gain)).map(({ of, gain }) => element("li", {}, data(of.map(words).join(" and ")), ` together: ${figure(gain, true)}`));
  const next = !plans ? null : element("p", {}, told.next ? ["Ask for ", element("b", {}, data(words(told.next))), ` first. The expected total price is ${figure(told.price)}, the expected final score is ${figure(told.score)}.`]
    : `Ask for nothing: ${NOTHING[told.reason] ?? told.reason}.`);
  return element("section", { class: "answer missing" }, element("h3", {}, "What to ask for next"),
    element("p", { class: "quiet" }, isNumber(told.sure) ? `The expected score of the row as it is: ${figure(told.sure)}. A score of 1 means no error.` : "The expected score of the row as it is cannot be estimated, because no known row is similar."),
    next, element("table", { class: "modalities" }, element("thead", {}, element("tr", {}, head.map((text) => element("th", { scope: "col" }, text)))), element("tbody", {}, lines)),
    together.length ? element("ul", { class: "interactions" }, together) : null);
}

function drawRow(place) {
  const row = JSON.parse(document.getElementById(`data-${place}`).textContent);
  const answers = row.answers ?? [], several = answers.length > 1;
  const items = (row.items ?? []).map((item, number) => drawItem(item, answers.flatMap((answer) =>
    (answer.parts ?? []).filter((part) => part.item === number).map((part) => ({ part, task: answer.task }))), several));
  return element("section", { class: "row", id: "row" }, element("h2", { tabindex: -1 }, `Row ${row.row}`),
    answers.map(drawAnswer), drawMissing(row.missing), items.length ? element("div", { class: "items" }, items) : element("p", { class: "quiet" }, "The row has no items."));
}

/* The index */

function card(entry, place) {
  const picture = entry.thumbnail ? element("img", { src: entry.thumbnail, alt: "", loading: "lazy" }) : null;
  const answers = entry.answers.map((answer) => element("span", { class: "said", "data-task": answer.task ?? "" },
    answer.task ? element("span", { class: "quiet" }, data(answer.task), ": ") : null, element("b", {}, data(answer.answer ?? "no answer")),
    isNumber(answer.probability) ? ` ${percent(answer.probability)}` : null, " ", judged(answer),
    answer.decided ? element("span", { class: "quiet decided" }, "by ", data(words(answer.decided))) : null));
  return element("li", { class: "card" }, element("a", { href: `#row-${place}` }, element("span", { class: "quiet" }, `Row ${entry.row}`), picture,
    entry.caption ? element("span", { class: "caption", dir: "auto" }, entry.caption) : null, answers));
}

function choice(label, options) {
  const select = element("select", {}, options.map(([value, text]) => element("option", { value }, text)));
  return [element("label", {}, `${label} `, select), select];
}

let shownPlaces = index.map((_, place) => place);  // rows that pass the filters, for "previous" and "next"
let overview = null;

function drawIndex() {
  const tasks = distinct(everyAnswer.map((answer) => answer.task ?? "")), deciding = distinct(everyAnswer.map((answer) => answer.decided).filter(Boolean));
  const [byTask, task] = choice("Task", [["*", "all"], ...tasks.map((name) => [`=${name}`, name || "(without a name)"])]);
  const [byRight, right] = choice("Answers", [["*", "all"], ["true", "right"], ["false", "wrong"], ["null", "not judged"]]);
  const [byDeciding, decided] = choice("Decided by", [["*", "any modality"], ...deciding.map((name) => [`=${name}`, words(name)])]);
  const cards = index.map(card), count = element("p", { role: "status", class: "quiet" });
  const none = element("button", { type: "button" }, "Show all");
  const filter = () => {
    shownPlaces = index.map((_, place) => place).filter((place) => index[place].answers.some((answer) =>
      (task.value === "*" || task.value === `=${answer.task ?? ""}`) &&
      (right.value === "*" || right.value === String(answer.right ?? null)) &&
      (decided.value === "*" || decided.value === `=${answer.decided}`)) ||
      (!index[place].answers.length && [task, right, decided].every((select) => select.value === "*")));
    const left = new Set(shownPlaces);
    cards.forEach((each, place) => {
      each.hidden = !left.has(place);
      each.querySelectorAll("[data-task]").forEach((said) => (said.hidden = task.value !== "*" && task.value !== `=${said.dataset.task}`));
    });
    count.textContent = `${left.size.toLocaleString("en")} of ${index.length.toLocaleString("en")} rows`;
    none.hidden = left.size === index.length;
  };
  [task, right, decided].forEach((select) => select.addEventListener("change", filter));
  none.addEventListener("click", () => {
    [task, right, decided].forEach((select) => (select.value = "*"));
    filter();
    task.isConnected ? task.focus() : right.focus();
  });
  const filters = element("form", { class: "filters screen" }, tasks.length > 1 ? byTask : null, byRight, deciding.length ? byDeciding : null, none);
  filters.addEventListener("submit", (event) => event.preventDefault());
  filter();
  return element("section", { id: "index" }, drawSummary(), element("h2", { tabindex: -1 }, "Rows"), filters, count, element("ul", { class: "cards" }, cards));
}

/** Shows what the address names: `#row-3` is a row, anything else the index. A single row has no index. */
function show(moved) {
  const asked = /^#row-(\d+)$/.exec(location.hash), place = asked ? Number(asked[1]) : index.length === 1 ? 0 : -1;
  const before = main.dataset.row;
  if (!(place in index)) {
    overview ??= drawIndex();
    main.replaceChildren(overview);
    delete main.dataset.row;
    if (moved && before !== undefined) overview.querySelector(`a[href="#row-${before}"]`)?.focus();
    return;
  }
  main.dataset.row = place;
  const at = shownPlaces.indexOf(place);
  const link = (to, text) => (to === undefined ? element("span", { class: "quiet" }, text) : element("a", { href: `#row-${to}` }, text));
  const ways = element("nav", { class: "ways screen", "aria-label": "rows" }, link(shownPlaces[at - 1], "\u2190 previous"), element("a", { href: "#" }, "all rows"),
    link(at < 0 ? undefined : shownPlaces[at + 1], "next \u2192"));
  const row = drawRow(place);
  main.replaceChildren(...(index.length > 1 ? [ways] : drawSummary()), row);
  if (moved) {
    window.scrollTo(0, 0);
    row.querySelector("h2").focus({ preventScroll: true });
  }
}

window.addEventListener("hashchange", () => location.hash !== "#main" && show(true));
show(false);
