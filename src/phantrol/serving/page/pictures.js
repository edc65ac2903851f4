// From a file that a person chose, dropped or pasted to a picture that can be sent.

const LONGEST_PX = 2048;
const MOST_BYTES = 1.5e6;
const AS_THEY_ARE = ["image/png", "image/jpeg"]; // a browser may show a WebP unturned that the server turns by its EXIF

// Returns {pictures, error}: those that can be sent, and an Error that names the others, or null.
export async function readPictures(files) {
  const [pictures, others] = [[], []];
  for (const file of files) {
    try {
      pictures.push(await readPicture(file));
    } catch {
      others.push(nameOf(file));
    }
  }
  const words = `This browser cannot read ${others.join(", ")}. Choose a PNG, JPEG or WebP picture.`;
  return { pictures, error: others.length ? new Error(words) : null };
}

const nameOf = (file) => file.name || "the pasted picture";

// Returns {name, url, width, height}; `url` is a data URI. Large ones are made smaller, so that a telephone's photo
// passes.
async function readPicture(file) {
  const name = nameOf(file);
  const bitmap = await createImageBitmap(file);
  const { width, height } = bitmap;
  const scale = Math.min(1, LONGEST_PX / Math.max(width, height));
  if (scale === 1 && file.size <= MOST_BYTES && AS_THEY_ARE.includes(file.type)) {
    bitmap.close();
    return { name, url: await asDataUri(file), width, height };
  }
  const canvas = document.createElement("canvas");
  canvas.width = Math.max(1, Math.round(width * scale));
  canvas.height = Math.max(1, Math.round(height * scale));
  const context = canvas.getContext("2d");
  context.fillStyle = "white"; // behind what is transparent
  context.fillRect(0, 0, canvas.width, canvas.height);
  context.imageSmoothingQuality = "high";
  context.drawImage(bitmap, 0, 0, canvas.width, canvas.height);
  bitmap.close();
  return { name, url: canvas.toDataURL("image/jpeg", 0.92), width: canvas.width, height: canvas.height };
}

// The files that were dropped or pasted, or none where no picture is among them.
export function filesOf(transfer) {
  const files = [...(transfer?.files ?? [])];
  return files.some((file) => file.type.startsWith("image/")) ? files : [];
}

// Whether words are dragged to a field, which takes them itself.
export function dragsWords({ dataTransfer, target }) {
  return !dataTransfer.types.includes("Files") && target.matches?.("input, textarea");
}

// The files that are meant by a paste. Into a field it is the words, where there are some: those of a spreadsheet bring
// a picture of themselves. Only a copied file brings words that are its name, alone or behind its folder.
export function pastedFiles({ clipboardData, target }) {
  const files = filesOf(clipboardData);
  const words = clipboardData?.getData("text/plain").trim() ?? "";
  const areMeant = words && target.matches?.("input, textarea") && !files.some((file) => words.endsWith(file.name));
  return areMeant ? [] : files;
}

function asDataUri(file) {
  return new Promise((resolve, reject) => {
    const reader = new FileReader();
    reader.onload = () => resolve(reader.result);
    reader.onerror = () => reject(reader.error);
    reader.readAsDataURL(file);
  });
}
