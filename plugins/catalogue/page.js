// The Catalogue page, drawn with the React that Airflow brings: nothing is built, nothing is fetched
// from outside. Airflow imports this file and mounts what it finds under the plugin's name.

const { createElement: h, useCallback, useEffect, useMemo, useState } = globalThis.React;
const { Link } = globalThis.ReactRouterDOM;

const LEVELS = ["beginner", "intermediate", "advanced"];
const STATES = ["success", "failed", "running", "queued", "never run", "not in this Airflow"];
const REFRESH_MS = 5000;
const RUNS_AT_ONCE = 100; // Airflow gives no more in one answer

async function ask(path, body) {
  const answer = await fetch(path, {
    method: body ? "POST" : "GET",
    headers: body ? { "Content-Type": "application/json" } : {},
    body: body && JSON.stringify(body),
  }).catch(() => {
    throw new Error("Airflow does not answer.");
  });
  if (answer.status === 401) {
    const next = encodeURIComponent(globalThis.location.href);
    globalThis.location.replace(new URL(`api/v2/auth/login?next=${next}`, document.baseURI));
  }
  if (!answer.ok) {
    const { detail } = await answer.json().catch(() => ({}));
    const reason = typeof detail === "string" ? detail : answer.statusText;
    throw new Error(`Airflow answers ${answer.status}: ${reason}`);
  }
  return answer.json();
}

// The newest run of each DAG. One request gives them all, unless one DAG ran more often than fits.
async function lastRuns(dagIds) {
  const newest = {};
  let wanted = dagIds;
  while (wanted.length > 0) {
    const { dag_runs: runs, total_entries: total } = await ask("api/v2/dags/~/dagRuns/list", {
      dag_ids: wanted,
      order_by: "-run_after",
      page_limit: RUNS_AT_ONCE,
    });
    for (const run of runs) newest[run.dag_id] ??= run;
    wanted = total > runs.length ? wanted.filter((id) => !(id in newest)) : [];
  }
  return newest;
}

// Which DAGs there are, and how each last ran; asked again while somebody looks.
function useAirflow(dagIds) {
  const [known, setKnown] = useState(null);
  const [fault, setFault] = useState(null);
  const refresh = useCallback(async () => {
    if (dagIds.length === 0 || document.hidden) return;
    try {
      const { dags } = await ask("api/v2/dags?limit=100&dag_id_prefix_pattern=97_");
      const here = dags.map((dag) => dag.dag_id).filter((id) => dagIds.includes(id));
      const runs = await lastRuns(here);
      setKnown(Object.fromEntries(here.map((id) => [id, runs[id] ?? null])));
      setFault(null);
    } catch (error) {
      setFault(`How the pipelines last ran can't be told. ${error.message}`);
    }
  }, [dagIds]);
  useEffect(() => {
    refresh();
    const timer = setInterval(refresh, REFRESH_MS);
    document.addEventListener("visibilitychange", refresh);
    return () => {
      clearInterval(timer);
      document.removeEventListener("visibilitychange", refresh);
    };
  }, [refresh]);
  return [known, fault];
}

// What the reader chose stands in the address, so that it is still there on the way back.
function useChoice() {
  const [choice, setChoice] = useState(() => {
    const query = new URLSearchParams(globalThis.location.search);
    return { text: query.get("filter") ?? "", picked: query.getAll("only") };
  });
  const change = (changed) => {
    const next = { ...choice, ...changed };
    const query = new URLSearchParams(next.picked.map((each) => ["only", each]));
    if (next.text) query.set("filter", next.text);
    const address = `${globalThis.location.pathname}${query.size ? `?${query}` : ""}`;
    globalThis.history.replaceState(globalThis.history.state, "", address);
    setChoice(next);
  };
  return [choice, change];
}

function stateOf(task, known) {
  if (known === null) return null;
  if (!(task.dag_id in known)) return "not in this Airflow";
  return known[task.dag_id]?.state ?? "never run";
}

// One of the picked levels, one of the picked states, all other picked tags, every word of the text.
function fits(task, state, { text, picked }) {
  const among = (group, value) => {
    const wanted = picked.filter((each) => group.includes(each));
    return wanted.length === 0 || wanted.includes(value);
  };
  const tags = picked.filter((each) => !LEVELS.includes(each) && !stateName(each));
  const said = [task.number, task.title, task.purpose, task.dag_id, ...task.tags, ...task.boxes]
    .join(" ")
    .toLowerCase();
  return (
    among(LEVELS, task.level) &&
    among(STATES.map(pickedState), state && pickedState(state)) &&
    tags.every((tag) => task.tags.includes(tag)) &&
    text.toLowerCase().split(/\s+/).every((word) => said.includes(word))
  );
}

// "success" is a tag of the specification as well as a state of a run.
const pickedState = (state) => `run:${state}`;
const stateName = (picked) => picked.startsWith("run:") && picked.slice("run:".length);

function age(date) {
  const seconds = Math.max(0, (Date.now() - Date.parse(date)) / 1000);
  const units = [["day", 86400], ["hour", 3600], ["minute", 60], ["second", 1]];
  const [unit, length] = units.find(([, length]) => seconds >= length) ?? units.at(-1);
  const words = new Intl.NumberFormat("en", { style: "unit", unit, unitDisplay: "short" });
  return words.format(Math.floor(seconds / length));
}

// Where the text was found: a card does not show its boxes otherwise.
function boxesWith(text, task) {
  const words = text.toLowerCase().split(/\s+/).filter(Boolean);
  return task.boxes.filter((box) => words.some((word) => box.toLowerCase().includes(word)));
}

const withCode = (text) =>
  text.split("`").map((part, index) => (index % 2 ? h("code", { key: index }, part) : part));

function Toggle({ value, label, count, picked, onToggle, state }) {
  return h(
    "button",
    {
      type: "button",
      className: "toggle",
      "aria-pressed": picked.includes(value),
      onClick: () =>
        onToggle(picked.includes(value) ? picked.filter((e) => e !== value) : [...picked, value]),
    },
    state && h("span", { className: "dot", "data-state": state, "aria-hidden": true }),
    label,
    " ",
    h("span", { className: "count" }, count),
  );
}

function Toggles({ name, values, ...rest }) {
  return h(
    "div",
    { className: "toggles", role: "group", "aria-label": name },
    h("span", { className: "group", "aria-hidden": true }, name),
    values.map((each) => h(Toggle, { key: each.value, ...each, ...rest })),
  );
}

function LastRun({ dagId, run, state }) {
  const dot = h("span", { className: "dot", "data-state": state, "aria-hidden": true });
  if (!run) return h("span", { className: "state" }, dot, state);
  const began = run.start_date ?? run.queued_at ?? run.run_after;
  return h(
    Link,
    {
      className: "state",
      to: `/dags/${dagId}/runs/${encodeURIComponent(run.dag_run_id)}`,
      title: `Last run: ${run.dag_run_id}`,
    },
    dot,
    state,
    h("span", { className: "when" }, run.end_date ? `${age(run.end_date)} ago` : `for ${age(began)}`),
  );
}

// Copies the command and shows it, for those whose browser keeps the clipboard to itself.
function useCopyCommand(task) {
  const [said, setSaid] = useState(null);
  const command = `make copy DAG=${task.dag_id} TO=~/my-airflow NAME=my_${task.dag_id.slice(9)}`;
  const copy = async () => {
    if (said) return setSaid(null);
    try {
      await navigator.clipboard.writeText(command);
      setSaid("Copied:");
    } catch {
      setSaid("To copy it:");
    }
  };
  const button = h(
    "button",
    {
      type: "button",
      onClick: copy,
      title: command,
      "aria-expanded": said !== null,
      "aria-label": `Copy ${task.title}`,
    },
    "Copy",
  );
  const shown = h("div", { role: "status" }, said && h("div", { className: "copied" }, said, h("code", null, command)));
  return [button, shown];
}

function Card({ task, state, run, experiment, text }) {
  const here = state !== null && state !== "not in this Airflow";
  const heading = `catalogue-${task.dag_id}`;
  const to = `/dags/${task.dag_id}`;
  const [copyButton, copyCommand] = useCopyCommand(task);
  const found = boxesWith(text, task);
  return h(
    "article",
    { className: "card", "data-dag": task.dag_id, "data-state": state, "aria-labelledby": heading },
    h(
      "div",
      { className: "top" },
      h("span", { className: "number" }, task.number),
      h("span", { className: "level" }, task.level),
    ),
    h("h3", { id: heading }, here ? h(Link, { to }, task.title) : task.title),
    h("p", null, task.purpose),
    found.length > 0 && h("p", { className: "found" }, `Shows: ${found.join(", ")}`),
    h(
      "ul",
      { className: "tags", "aria-label": "Tags" },
      task.tags.filter((tag) => tag !== task.level).map((tag) => h("li", { key: tag }, tag)),
    ),
    state && h(LastRun, { dagId: task.dag_id, run, state }),
    here &&
      h(
        "div",
        { className: "links" },
        h(Link, { to, "aria-label": `DAG of ${task.title}` }, "DAG"),
        h(Link, { to: `${to}/code`, "aria-label": `Code of ${task.title}` }, "Code"),
        experiment &&
          h(
            "a",
            {
              href: experiment,
              target: "_blank",
              rel: "noreferrer",
              "aria-label": `MLflow experiment of ${task.title}, in a new tab`,
            },
            "MLflow",
          ),
        copyButton,
      ),
    here && copyCommand,
  );
}

function Section({ section, cards }) {
  const heading = `catalogue-${section.number}`;
  return h(
    "section",
    { "aria-labelledby": heading },
    h(
      "h2",
      { id: heading },
      h("span", { className: "number" }, section.number),
      section.title,
    ),
    h("p", { className: "tour" }, withCode(section.tour)),
    h("div", { className: "cards" }, cards),
  );
}

function Page() {
  const [sections, setSections] = useState([]);
  const [experiments, setExperiments] = useState({ pages: {}, fault: null });
  const [fault, setFault] = useState(null);
  const [choice, change] = useChoice();

  useEffect(() => {
    ask("catalogue/sections").then(setSections, (error) =>
      setFault(`The pipelines can't be listed. ${error.message} Reload the page to try again.`),
    );
  }, []);

  const tasks = useMemo(() => sections.flatMap((section) => section.tasks), [sections]);
  const dagIds = useMemo(() => tasks.map((task) => task.dag_id), [tasks]);
  const [known, silence] = useAirflow(dagIds);

  // A pipeline's first run makes its experiment.
  const ended = known && Object.values(known).filter((run) => run?.end_date).length;
  useEffect(() => {
    if (ended === null) return;
    ask("catalogue/experiments").then(setExperiments, (error) =>
      setExperiments({ pages: {}, fault: `No links to MLflow. ${error.message}` }),
    );
  }, [ended]);

  const having = (tag) => tasks.filter((task) => task.tags.includes(tag)).length;
  const tags = [...new Set(tasks.flatMap((task) => task.tags))]
    .filter((tag) => !LEVELS.includes(tag) && having(tag) < tasks.length)
    .map((tag) => ({ value: tag, label: tag, count: having(tag) }));
  const levels = LEVELS.map((level) => ({ value: level, label: level, count: having(level) }));
  const states = STATES.map((state) => ({
    value: pickedState(state),
    label: state,
    count: tasks.filter((task) => stateOf(task, known) === state).length,
    state,
  })).filter(({ count, value }) => count > 0 || choice.picked.includes(value));

  const shown = sections
    .map((section) => [
      section,
      section.tasks.filter((task) => fits(task, stateOf(task, known), choice)),
    ])
    .filter(([, fitting]) => fitting.length > 0);
  const count = shown.reduce((sum, [, fitting]) => sum + fitting.length, 0);
  const narrowed = choice.text !== "" || choice.picked.length > 0;
  const clear = () => change({ text: "", picked: [] });
  const picking = { picked: choice.picked, onToggle: (picked) => change({ picked }) };

  return h(
    "main",
    { className: "catalogue" },
    h("link", { rel: "stylesheet", href: "catalogue/page.css", precedence: "default" }),
    h(
      "header",
      null,
      h("h1", null, "ML pipelines"),
      h("p", null, "Ten sections of five, one file each: run it, read it, copy it."),
    ),
    h(
      "div",
      { className: "filters", role: "search" },
      h(
        "div",
        { className: "line" },
        h("input", {
          type: "search",
          value: choice.text,
          "aria-label": "Filter the pipelines",
          placeholder: "Filter by title, purpose, tag, …",
          onChange: (event) => change({ text: event.target.value }),
          onKeyDown: (event) => event.key === "Escape" && change({ text: "" }),
        }),
        h(
          "span",
          { className: "shown", role: "status" },
          tasks.length > 0 && (narrowed ? `${count} of ${tasks.length}` : `${count} pipelines`),
        ),
        narrowed && h("button", { type: "button", className: "clear", onClick: clear }, "Clear"),
      ),
      states.length > 0 && h(Toggles, { name: "Last run", values: states, ...picking }),
      h(Toggles, { name: "Level", values: levels, ...picking }),
      h(Toggles, { name: "Tags", values: tags, ...picking }),
    ),
    [fault, silence, experiments.fault]
      .filter(Boolean)
      .map((each) => h("p", { key: each, className: "fault", role: "alert" }, withCode(each))),
    shown.map(([section, fitting]) =>
      h(Section, {
        key: section.number,
        section,
        cards: fitting.map((task) =>
          h(Card, {
            key: task.dag_id,
            task,
            state: stateOf(task, known),
            run: known?.[task.dag_id],
            experiment: experiments.pages[task.dag_id],
            text: choice.text,
          }),
        ),
      }),
    ),
    tasks.length > 0 && count === 0 && h("p", { className: "nothing" }, "No pipeline is like that."),
  );
}

globalThis.Catalogue = Page;
