// The page of `ffvit serve`. Names of files and classes only ever become text, never markup.
"use strict";

const byId = (id) => document.getElementById(id);
const status = byId("status");
const results = byId("results");
const SHOWN = 40; // results that are kept on the page
let models = [];
let token = "";
let refused = []; // files that wait for a token
let stream = null;
let queue = Promise.resolve();

function element(name, text, className) {
  const made = document.createElement(name);
  if (text !== undefined) made.textContent = text;
  if (className) made.className = className;
  return made;
}

const percent = (share) => (share > 0.9995 ? "> 99.9 %" : share < 0.0005 ? "< 0.1 %" : `${(100 * share).toFixed(1)} %`);

const answerOf = (said) => (said.none_of_these ? "none of its classes" : said.classes[0].name);

function say(text, isError = false) {
  status.textContent = text;
  status.classList.toggle("error", isError);
}

async function ask(path, options = {}) {
  let response;
  try {
    const headers = token ? { authorization: `Bearer ${token}` } : {};
    response = await fetch(path, { ...options, headers });
  } catch {
    throw new Error("the server does not answer");
  }
  const answer = await response.json().catch(() => ({}));
  if (response.status === 401) {
    byId("token-form").hidden = false;
    byId("token").value = "";
    byId("token").focus();
  }
  if (!response.ok) {
    const error = new Error(answer.detail || `the server answered ${response.status}`);
    throw Object.assign(error, { status: response.status });
  }
  return answer;
}

function form(file) {
  const made = new FormData();
  made.append("file", file, file.name || "pasted image");
  return made;
}

async function take(files) {
  for (const file of files) queue = queue.then(() => predict(file));
  await queue;
}

async function predict(file) {
  const name = file.name || "pasted image";
  say(`Asking about ${name} …`);
  try {
    const answer = await ask("/predict?top=5", { method: "POST", body: form(file) });
    await show(file, answer.images[0], answer.seconds);
  } catch (error) {
    if (error.status === 401) {
      refused.push(file);
      say("This server needs a token.", true);
      return;
    }
    const card = element("article", undefined, "failed");
    card.append(element("h3", name), element("p", error.message.startsWith(`${name}: `) ? error.message.slice(name.length + 2) : error.message));
    add(card);
    say(`${name}: ${error.message}`, true);
  }
}

function add(card) {
  results.prepend(card);
  while (results.children.length > SHOWN) results.lastElementChild.remove();
}

async function show(file, image, seconds) {
  const card = byId("result").content.firstElementChild.cloneNode(true);
  card.querySelector("h3").textContent = image.image;
  const canvas = card.querySelector("canvas");
  const drawn = await picture(file, canvas, models[0]);
  if (!drawn) card.querySelector(".frame").replaceChildren(element("p", "This browser cannot show the image.", "note"));
  canvas.setAttribute("aria-label", `${image.image}, as the network sees it`);
  const spoken = image.predictions.map((said) =>
    said.none_of_these ? `${said.model} says ${answerOf(said)}` : `${said.model} says ${answerOf(said)}, ${percent(said.classes[0].probability)}`);
  if (spoken.length > 1) verdict(card.querySelector(".verdict"), image.predictions);
  const networks = card.querySelector(".networks");
  for (const said of image.predictions) networks.append(network(said, file, card, drawn));
  card.querySelector(".footer").textContent = `Answered in ${(1000 * seconds).toFixed(0)} ms. Probabilities are calibrated where the run fitted a temperature.`;
  add(card);
  say(`${image.image}: ${spoken.join("; ")}`);
}

function verdict(place, predictions) {
  const names = new Set(predictions.map(answerOf));
  place.hidden = false;
  place.classList.toggle("differs", names.size > 1);
  place.textContent =
    names.size === 1
      ? `They agree: ${predictions[0].none_of_these ? "none of their classes" : [...names][0]}.`
      : `They disagree: ${predictions.map((said) => `${said.model} says ${answerOf(said)}`).join(", ")}.`;
}

function network(said, file, card, drawn) {
  const made = element("section", undefined, said.none_of_these ? "rejected" : undefined);
  made.append(element("h4", said.model));
  if (said.none_of_these) made.append(element("p", "Probably none of these classes. The nearest:", "none"));
  const list = element("ol");
  for (const entry of said.classes) {
    const row = element("div", undefined, "row");
    row.append(element("span", entry.name), element("span", percent(entry.probability)));
    const bar = element("div", undefined, "bar");
    bar.setAttribute("aria-hidden", "true");
    const fill = element("i");
    fill.style.width = `${100 * entry.probability}%`;
    bar.append(fill);
    const item = element("li");
    item.append(row, bar);
    list.append(item);
  }
  const button = element("button", "Show why");
  button.type = "button";
  button.setAttribute("aria-pressed", "false");
  button.setAttribute("aria-label", `Show the patches that speak for ${said.classes[0].name}, says ${said.model}`);
  const note = element("p", undefined, "note");
  note.hidden = true;
  button.addEventListener("click", () => explain(button, note, said.model, file, card));
  made.append(list);
  if (drawn) made.append(button, note);
  return made;
}

async function explain(button, note, model, file, card) {
  if (button.getAttribute("aria-busy") === "true") return;
  const canvas = card.querySelector("canvas");
  const wasOn = button.getAttribute("aria-pressed") === "true";
  const described = models.find((other) => other.name === model);
  for (const other of card.querySelectorAll("button[aria-pressed]")) other.setAttribute("aria-pressed", "false");
  card.querySelector(".legend").hidden = true;
  if (wasOn) {
    await picture(file, canvas, described);
    return;
  }
  button.setAttribute("aria-busy", "true"); // not disabled, which would take the focus from the keyboard
  say("Covering one patch after another …");
  try {
    const found = await ask(`/explain?model=${encodeURIComponent(model)}`, { method: "POST", body: form(file) });
    await picture(file, canvas, described);
    overlay(canvas, found.evidence);
    button.setAttribute("aria-pressed", "true");
    card.querySelector(".legend").hidden = false;
    note.hidden = false;
    note.textContent = words(found);
    say(note.textContent);
  } catch (error) {
    say(error.message, true);
  }
  button.setAttribute("aria-busy", "false");
}

function words(found) {
  const flat = found.evidence.flat();
  const at = flat.indexOf(Math.max(...flat));
  const after = found.covered.flat()[at];
  if (!(flat[at] > 0.05)) return `No single patch speaks for ${found.class_name}: covering any one leaves the answer as it is.`;
  const columns = found.evidence[0].length;
  const where = `row ${Math.floor(at / columns) + 1}, column ${(at % columns) + 1}`;
  return `The patch in ${where} matters most for ${found.class_name}. With it covered, ${percent(found.probability)} falls to ${percent(after)}.`;
}

// What the network sees of the image: resized and cropped about its middle.
async function picture(file, canvas, model) {
  let bitmap;
  try {
    bitmap = await createImageBitmap(file);
  } catch {
    return false;
  }
  const [height, width] = model.image_size;
  const scale = model.crop * Math.min(bitmap.width / width, bitmap.height / height);
  const [seenWidth, seenHeight] = [Math.min(bitmap.width, width * scale), Math.min(bitmap.height, height * scale)];
  canvas.width = 544;
  canvas.height = Math.round((544 * height) / width);
  const context = canvas.getContext("2d");
  context.imageSmoothingEnabled = bitmap.width >= 64;
  context.drawImage(
    bitmap, (bitmap.width - seenWidth) / 2, (bitmap.height - seenHeight) / 2, seenWidth, seenHeight, 0, 0, canvas.width, canvas.height,
  );
  bitmap.close();
  return true;
}

function overlay(canvas, evidence) {
  const context = canvas.getContext("2d");
  const most = Math.max(...evidence.flat());
  const [rows, columns] = [evidence.length, evidence[0].length];
  const [high, wide] = [canvas.height / rows, canvas.width / columns];
  context.fillStyle = "rgb(0 0 0 / 45%)";
  context.fillRect(0, 0, canvas.width, canvas.height);
  evidence.forEach((row, y) =>
    row.forEach((value, x) => {
      const share = most > 0 ? Math.max(0, value / most) : 0;
      context.fillStyle = `rgb(255 159 28 / ${(75 * share).toFixed(1)}%)`;
      context.fillRect(x * wide, y * high, wide, high);
      if (share === 1) {
        context.lineWidth = 5;
        context.strokeStyle = "#ffffff";
        context.strokeRect(x * wide + 3, y * high + 3, wide - 6, high - 6);
      }
    }),
  );
}

async function openCamera() {
  try {
    stream = await navigator.mediaDevices.getUserMedia({ video: { facingMode: "environment" } });
  } catch {
    say("There is no camera, or it may not be used. (Browsers allow it on localhost and over https.)", true);
    return;
  }
  byId("video").srcObject = stream;
  byId("camera-view").hidden = false;
  byId("shoot").focus();
}

function closeCamera() {
  for (const track of stream?.getTracks() ?? []) track.stop();
  byId("camera-view").hidden = true;
  byId("camera").focus();
}

function shoot() {
  const video = byId("video");
  const canvas = element("canvas");
  canvas.width = video.videoWidth;
  canvas.height = video.videoHeight;
  canvas.getContext("2d").drawImage(video, 0, 0);
  canvas.toBlob((photo) => take([new File([photo], "photo.jpg", { type: "image/jpeg" })]), "image/jpeg", 0.92);
}

async function start() {
  try {
    models = await ask("/models");
    const about = (model) => `${model.name} (${model.classes.length} classes)`;
    byId("models").textContent = models.map(about).join(" and ");
    document.title = `${models.map((model) => model.name).join(", ")} - ffvit`;
  } catch (error) {
    byId("models").textContent = "";
    say(error.message, true);
  }
}

byId("choose").addEventListener("click", () => byId("file").click());
byId("file").addEventListener("change", (event) => {
  const files = [...event.target.files];
  event.target.value = "";
  take(files);
});
byId("camera").addEventListener("click", openCamera);
byId("camera-close").addEventListener("click", closeCamera);
byId("shoot").addEventListener("click", shoot);
byId("token-form").addEventListener("submit", (event) => {
  event.preventDefault();
  token = byId("token").value;
  byId("token-form").hidden = true;
  take(refused.splice(0));
});
document.addEventListener("paste", (event) => {
  const files = [...event.clipboardData.files];
  if (files.length) take(files);
});
for (const kind of ["dragover", "dragenter"]) {
  document.addEventListener(kind, (event) => {
    event.preventDefault();
    byId("drop").classList.add("over");
  });
}
document.addEventListener("dragleave", (event) => {
  if (!event.relatedTarget) byId("drop").classList.remove("over");
});
document.addEventListener("drop", (event) => {
  event.preventDefault();
  byId("drop").classList.remove("over");
  take([...event.dataTransfer.files]);
});
start();
