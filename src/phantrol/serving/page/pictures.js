// From a file that a person chose, dropped or pasted to a picture that can be sent.

const LONGEST_PX = 2048;
const MOST_BYTES = 1.5e6;
const AS_THEY_ARE = ["image/png", "image/jpeg", "image/webp"];

// Returns {name, url, width, height}; `url` is a data URI. Large ones are made smaller, so that a telephone's photo
// passes. Throws an Error that says in words why a file cannot be shown.
export async function readPicture(file) {
  const name = file.name || "the pasted picture";
  let bitmap;
  try {
    bitmap = await createImageBitmap(file);
  } catch {
    throw new Error(`This browser cannot read ${name}. Choose a PNG, JPEG or WebP picture.`);
  }
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

// The pictures among what was dropped or pasted.
export function picturesOf(transfer) {
  return [...(transfer?.files ?? [])].filter((file) => file.type.startsWith("image/"));
}

// The pictures that are meant by a paste. Into a field it is the words, where there are some: those of a spreadsheet bring
// a picture of themselves. Only a copied file brings words that are its name, alone or behind its folder.
export function pastedPictures({ clipboardData, target }) {
  const files = picturesOf(clipboardData);
  const words = clipboardData?.getData("text/plain").trim() ?? "";
  const areMeant = words && target.matches?.("input, textarea") && !files.some((file) => words.endsWith(file.name));
  return areMeant ? [] : files;
}

function asDataUri(file) {
  return new Promise((resolve, reject) => {
    const reader = new FileReader();
    reader.onload = () => resolve(reader.result);
    reader.onerror = () => reject(new Error(`${file.name} could not be read. Choose it again.`));
    reader.readAsDataURL(file);
  });
}
