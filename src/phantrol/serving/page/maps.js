// Numbers to colours to canvases. A share goes from 0 to 1; `colours` is the scale that the server sent.

const SHADE = 0.45; // how much the darkest of the picture darkens the colours over it
const LARGEST_PX = 480;
const SMALLEST_PX = 8; // of a side: the map of a picture that is one line can still be seen

export function colourOf(colours, share) {
  const place = Math.min(1, Math.max(0, share)) * (colours.length - 1);
  const low = Math.floor(place);
  const [a, b] = [colours[low], colours[Math.min(colours.length - 1, low + 1)]].map(channels);
  return a.map((value, index) => Math.round(value + (place - low) * (b[index] - value)));
}

function channels(hex) {
  return [1, 3, 5].map((start) => parseInt(hex.slice(start, start + 2), 16));
}

// One pixel for each value of rows [R][N], from 0 to `high`.
export function heatCanvas(colours, rows, high) {
  const canvas = document.createElement("canvas");
  canvas.width = rows[0].length;
  canvas.height = rows.length;
  const context = canvas.getContext("2d");
  const pixels = context.createImageData(canvas.width, canvas.height);
  rows.flat().forEach((value, index) => {
    pixels.data.set([...colourOf(colours, high > 0 ? value / high : 0), 255], 4 * index);
  });
  context.putImageData(pixels, 0, 0);
  return canvas;
}

export function rampCanvas(colours) {
  return heatCanvas(colours, [Array.from({ length: 128 }, (_, index) => index / 127)], 1);
}

// Draws the colours of a grid [H][W] on `canvas`, with the picture as shade in them. Where the picture is white the
// colours are exactly those of the scale.
export function drawOverlay(canvas, image, colours, grid, high) {
  const scale = LARGEST_PX / Math.max(image.naturalWidth, image.naturalHeight);
  canvas.width = Math.max(SMALLEST_PX, Math.round(image.naturalWidth * scale));
  canvas.height = Math.max(SMALLEST_PX, Math.round(image.naturalHeight * scale));
  const whole = [0, 0, canvas.width, canvas.height];
  const context = canvas.getContext("2d");
  context.fillStyle = "white"; // behind what is transparent, as the model sees it
  context.fillRect(...whole);
  context.drawImage(image, ...whole);
  context.globalCompositeOperation = "saturation";
  context.fillStyle = "#808080";
  context.fillRect(...whole); // grey
  context.globalCompositeOperation = "source-over";
  context.fillStyle = `rgb(255 255 255 / ${1 - SHADE})`;
  context.fillRect(...whole); // light
  context.globalCompositeOperation = "multiply";
  context.imageSmoothingEnabled = false;
  context.drawImage(heatCanvas(colours, grid, high), ...whole);
  context.globalCompositeOperation = "source-over";
}

export function meanOfRows(rows) {
  return rows[0].map((_, column) => rows.reduce((sum, row) => sum + row[column], 0) / rows.length);
}

export function largest(rows) {
  return rows.reduce((most, row) => row.reduce((a, b) => Math.max(a, b), most), 0);
}

// At most three significant digits.
export function short(value) {
  return value === 0 ? "0" : value < 0.0001 ? value.toExponential(1) : String(Number(value.toPrecision(value < 0.1 ? 2 : 3)));
}

// Runs of equal flags: [{start, end, flag}].
export function runsOf(flags) {
  const runs = [];
  flags.forEach((flag, index) => {
    if (!runs.length || runs.at(-1).flag !== flag) runs.push({ start: index, end: index, flag });
    runs.at(-1).end = index + 1;
  });
  return runs;
}
