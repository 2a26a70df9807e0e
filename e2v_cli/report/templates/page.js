"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const byId = (id) => document.getElementById(id);
  const listCards = () => [...document.querySelectorAll(".card")];
  const judged = new Map(); // number of an utterance → index of its label
  let isSaved = true;
  let current = null;

  // Players: one sounds at a time, and its track follows.
  const audioOf = (element) => byId(element.dataset.clip);
  const partsOf = (audio, kind) => [...document.querySelectorAll(kind)].filter((part) => part.dataset.clip === audio.id);

  function toggle(audio) {
    if (audio.paused) {
      for (const other of document.querySelectorAll("audio")) if (other !== audio) other.pause();
      audio.play().catch(() => say("This clip can't be played here."));
    } else {
      audio.pause();
    }
  }

  function showPlaying(audio) {
    for (const button of partsOf(audio, "button.play")) {
      button.classList.toggle("playing", !audio.paused);
      const name = button.getAttribute("aria-label").replace(/^\S+/, audio.paused ? "Play" : "Pause");
      button.setAttribute("aria-label", name);
    }
    const heads = partsOf(audio, ".track").map((track) => track.querySelector(".head"));
    const follow = () => {
      const share = audio.duration ? audio.currentTime / audio.duration : 0;
      for (const head of heads) {
        head.hidden = audio.currentTime === 0;
        head.style.left = `${100 * share}%`;
      }
      if (!audio.paused) requestAnimationFrame(follow);
    };
    follow();
  }

  for (const audio of document.querySelectorAll("audio")) {
    audio.removeAttribute("controls");
    for (const event of ["play", "pause", "ended", "seeked"]) audio.addEventListener(event, () => showPlaying(audio));
  }
  for (const track of document.querySelectorAll(".track[data-clip]")) {
    track.addEventListener("click", (event) => {
      const audio = audioOf(track);
      const box = track.getBoundingClientRect();
      const seek = () => { audio.currentTime = (audio.duration * (event.clientX - box.left)) / box.width; };
      if (audio.readyState) seek();
      else audio.addEventListener("loadedmetadata", seek, { once: true });
      if (audio.paused) toggle(audio);
    });
  }

  // Labels: by key or by click, of the card that is current.
  const numberOf = (card) => Number(card.dataset.utterance);
  const idOf = (card) => data.utterances[numberOf(card)].id;

  function select(card, focus) {
    if (current && current !== card) {
      current.classList.remove("current");
      setTabStops(current, -1);
      for (const audio of current.querySelectorAll("audio")) audio.pause();
    }
    current = card;
    card.classList.add("current");
    setTabStops(card, 0);
    if (focus) {
      card.focus({ preventScroll: true });
      card.scrollIntoView({ block: "nearest" });
    }
  }

  function setTabStops(card, index) {
    card.tabIndex = index;
    for (const button of card.querySelectorAll("button")) button.tabIndex = index;
  }

  function judge(card, label) {
    const number = numberOf(card);
    if (label === null) judged.delete(number);
    else judged.set(number, label);
    isSaved = judged.size === 0;
    for (const other of listCards()) if (numberOf(other) === number) showLabel(other);
    showTally();
    say(`${idOf(card)}: ${label === null ? "taken back" : data.labels[label].name}`);
  }

  function showLabel(card) {
    const number = numberOf(card);
    const label = judged.has(number) ? judged.get(number) : null;
    card.querySelectorAll(".key").forEach((key, place) => key.setAttribute("aria-pressed", String(place === label)));
    const found = data.utterances[number].label;
    const names = data.labels.map((each) => each.name);
    card.querySelector(".verdict").textContent =
      label === null ? "" : label === found ? `✓ ${names[label]}` : `${names[found]} → ${names[label]}`;
  }

  function showTally() {
    const confirmed = [...judged].filter(([number, label]) => data.utterances[number].label === label).length;
    const changed = judged.size - confirmed;
    byId("tally").textContent = judged.size ? `${changed} relabelled, ${confirmed} confirmed` : "nothing judged yet";
    byId("save").disabled = judged.size === 0;
  }

  function say(text) {
    byId("said").textContent = text;
  }

  function adopt(card) {
    setTabStops(card, -1);
    card.addEventListener("focusin", () => select(card, false));
    card.addEventListener("pointerdown", () => select(card, false));
    for (const button of card.querySelectorAll("button.play")) {
      button.addEventListener("click", () => toggle(audioOf(button)));
    }
    card.querySelectorAll(".key").forEach((key, label) => {
      key.title = key.querySelector(".heard").textContent;
      key.addEventListener("click", () => judge(card, label));
    });
    showLabel(card);
  }

  listCards().forEach(adopt);
  if (listCards().length) setTabStops(listCards()[0], 0);

  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const card = event.target.closest(".card");
    if (!card) return;
    const label = Number(event.key) - 1;
    if (event.key === " ") {
      const button = card.querySelector("button.play");
      if (button) toggle(audioOf(button));
    } else if (event.key === "ArrowDown" || event.key === "ArrowUp") {
      const cards = listCards();
      const next = cards[cards.indexOf(card) + (event.key === "ArrowDown" ? 1 : -1)];
      if (next) select(next, true);
    } else if (event.key >= "1" && event.key <= "9" && label < data.labels.length) {
      judge(card, label);
    } else if (event.key === "0" || event.key === "Delete" || event.key === "Backspace") {
      judge(card, null);
    } else {
      return;
    }
    event.preventDefault();
  });
  document.addEventListener("keyup", (event) => {
    if (event.key === " " && event.target.closest(".card")) event.preventDefault(); // it would click a button
  });

  if (byId("begin")) {
    byId("begin").addEventListener("click", () => {
      const first = current && current.isConnected ? current : listCards()[0];
      if (first) select(first, true);
    });
    byId("save").addEventListener("click", save);
  }
  window.addEventListener("beforeunload", (event) => {
    if (!isSaved) event.preventDefault();
  });

  function save() {
    const lines = [...judged].map(([number, label]) => [data.utterances[number].id, data.labels[label].word]);
    lines.sort(([one], [other]) => compareIds(one, other));
    const text = lines.map((line) => `${line.join(" ")}\n`).join("");
    const url = URL.createObjectURL(new Blob([text], { type: "application/octet-stream" })); // text would be saved as .txt
    const link = document.createElement("a");
    link.href = url;
    link.download = "utt2emo";
    link.click();
    setTimeout(() => URL.revokeObjectURL(url), 60000);
    isSaved = true;
    say(`utt2emo has ${lines.length} ${lines.length === 1 ? "line" : "lines"}.`);
  }

  function compareIds(one, other) { // by code points, as LC_ALL=C sort does with UTF-8
    const [a, b] = [[...one], [...other]];
    for (let at = 0; at < Math.min(a.length, b.length); at += 1) {
      const difference = a[at].codePointAt(0) - b[at].codePointAt(0);
      if (difference) return difference;
    }
    return a.length - b.length;
  }

  // Cells of the confusion matrix: each opens its utterances below.
  for (const button of document.querySelectorAll("button.cell")) button.addEventListener("click", () => openCell(button));

  function openCell(button) {
    const wasOpen = button.getAttribute("aria-pressed") === "true";
    for (const other of document.querySelectorAll("button.cell")) other.setAttribute("aria-pressed", "false");
    byId("cell").replaceChildren();
    if (wasOpen) return;
    button.setAttribute("aria-pressed", "true");
    const numbers = button.dataset.numbers.split(" ").map(Number);
    const few = numbers.length < Number(button.dataset.count) ? `${numbers.length} of ` : "";
    const title = make("h4", "", `${button.dataset.title}: ${few}${button.dataset.count}`);
    byId("cell").append(title, ...numbers.map(makeCard));
  }

  function make(tag, kind, text) {
    return Object.assign(document.createElement(tag), { className: kind, textContent: text || "" });
  }

  function makeCard(number) {
    const { id, score } = data.utterances[number];
    const card = make("article", "card small");
    card.dataset.utterance = number;
    card.setAttribute("aria-label", id);
    const clip = byId(`clip-${number}`);
    const play = make(clip ? "button" : "span", clip ? "play" : "play silent");
    if (clip) {
      play.type = "button";
      play.dataset.clip = clip.id;
      play.setAttribute("aria-label", `Play ${id}`);
    }
    const who = make("div", "who");
    who.append(make("bdi", "id", id), make("span", "meta", score.toFixed(2)));
    const header = document.createElement("header");
    header.append(play, who, make("output", "verdict"));
    card.append(header);
    adopt(card);
    return card;
  }

  if (data.map) drawMap(data.map);

  function drawMap(map) {
    const canvas = byId("canvas");
    const form = byId("map-choices");
    const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
    let places = [];

    const choice = () => new FormData(form).get("by") || "label";
    const colours = {
      label: (index) => `--c${data.labels.length ? data.labels[map.label[index]].colour : 3}`,
      speaker: (index) => (map.speaker[index] < 9 ? `--c${map.speaker[index] + 1}` : "--c0"),
      score: () => "--heat",
    };

    function draw() {
      const by = choice();
      const scale = window.devicePixelRatio || 1;
      const [width, height] = [canvas.clientWidth, canvas.clientHeight];
      canvas.width = width * scale;
      canvas.height = height * scale;
      const context = canvas.getContext("2d");
      context.scale(scale, scale);
      const points = form.elements.centred && form.elements.centred.checked ? map.centred : map.points;
      const most = [Math.max(1, ...points.map(([x]) => x)), Math.max(1, ...points.map(([, y]) => y))];
      const size = Math.min((width - 48) / most[0], (height - 48) / most[1]);
      const left = (width - size * most[0]) / 2;
      const bottom = (height + size * most[1]) / 2;
      places = points.map(([x, y]) => [left + x * size, bottom - y * size]);
      const known = new Map();
      places.forEach(([x, y], index) => {
        const name = colours[by](index);
        if (!known.has(name)) known.set(name, colour(name));
        context.globalAlpha = by === "score" ? 0.08 + 0.87 * (map.score[index] / 100) ** 2 : 0.78;
        context.fillStyle = known.get(name);
        context.beginPath();
        context.arc(x, y, places.length > 500 ? 3 : 4.5, 0, 7);
        context.fill();
      });
      context.globalAlpha = 1;
      if (by === "label" && data.labels.length) writeLetters(context, colour("--fg"), colour("--card"));
      showLegend(by);
    }

    function writeLetters(context, ink, halo) { // at the middle of each label's points
      context.font = "600 13px ui-monospace, monospace";
      context.textAlign = "center";
      context.lineWidth = 4;
      data.labels.forEach((label, number) => {
        const own = places.filter((_, index) => map.label[index] === number);
        if (!own.length) return;
        const middle = [0, 1].map((axis) => own.map((place) => place[axis]).sort((a, b) => a - b)[own.length >> 1]);
        context.strokeStyle = halo;
        context.strokeText(label.letters, middle[0], middle[1] + 4);
        context.fillStyle = ink;
        context.fillText(label.letters, middle[0], middle[1] + 4);
      });
    }

    function showLegend(by) {
      const legend = byId("map-legend");
      const entries = { label: data.labels.map((label) => [label.colour, label.letters, label.name]), score: [] };
      entries.speaker = map.speakers.slice(0, 9).map((name, number) => [number + 1, "", name]);
      if (map.speakers.length > 9) entries.speaker.push([0, "", `${map.speakers.length - 9} others, or unknown`]);
      legend.replaceChildren(...entries[by].map(([number, letters, name]) => {
        const item = document.createElement("li");
        item.className = `chip c${number}`;
        const [dot, code, text] = ["i", "b", "bdi"].map((tag) => document.createElement(tag));
        code.textContent = letters;
        text.textContent = name;
        item.append(dot, ...(letters ? [code] : []), text);
        return item;
      }));
      if (by === "score") {
        legend.append(Object.assign(document.createElement("li"), { textContent: "The fuller the colour, the higher the score." }));
      }
    }

    canvas.addEventListener("pointermove", (event) => {
      const box = canvas.getBoundingClientRect();
      const [x, y] = [event.clientX - box.left, event.clientY - box.top];
      let [nearest, least] = [-1, 400];
      places.forEach(([left, top], index) => {
        const distance = (left - x) ** 2 + (top - y) ** 2;
        if (distance < least) [nearest, least] = [index, distance];
      });
      if (nearest < 0) return;
      const parts = [map.ids[nearest]];
      if (data.labels.length) parts.push(`${data.labels[map.label[nearest]].name} ${(map.score[nearest] / 100).toFixed(2)}`);
      if (map.speaker[nearest] < map.speakers.length) parts.push(`speaker ${map.speakers[map.speaker[nearest]]}`);
      byId("map-point").textContent = parts.join(" · ");
    });
    form.addEventListener("input", draw);
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
    new ResizeObserver(draw).observe(canvas);
  }
})();
