// Files of photographs: what they are, whether this browser shows them, and how they look when small.

const THUMBNAIL_WIDTH = 240; // pixels

export const FORMATS = {
  jpeg: { type: "image/jpeg", name: "JPEG", extension: "jpg" },
  png: { type: "image/png", name: "PNG", extension: "png" },
  webp: { type: "image/webp", name: "WebP", extension: "webp" },
  avif: { type: "image/avif", name: "AVIF", extension: "avif" },
  bmp: { type: "image/bmp", name: "BMP", extension: "bmp" },
  tiff: { type: "image/tiff", name: "TIFF", extension: "tif" },
  heic: { type: "image/heic", name: "HEIC", extension: "heic" },
};

/** Formats that few browsers show, and what the restored photograph is asked for in to be shown. */
export const PREVIEWS = { tiff: "png", heic: "jpeg" };

/** The format by its media type; undefined where there is none. */
export function formatOf(type) {
  return Object.values(FORMATS).find((format) => format.type === type);
}

/** The key in FORMATS that the first bytes show, as the service looks at them; null for anything else. */
export async function sniff(file) {
  const bytes = new Uint8Array(await file.slice(0, 32).arrayBuffer());
  const text = String.fromCharCode(...bytes);
  if (text.startsWith("\xff\xd8\xff")) return "jpeg";
  if (text.startsWith("\x89PNG\r\n\x1a\n")) return "png";
  if (text.startsWith("RIFF") && text.slice(8, 12) === "WEBP") return "webp";
  if (text.startsWith("BM")) return "bmp";
  if (["II*\0", "MM\0*", "II+\0"].includes(text.slice(0, 4))) return "tiff";
  if (text.slice(4, 8) !== "ftyp") return null;
  return text.slice(8).includes("avif") ? "avif" : "heic";
}

/** Whether this browser shows the file. Only formats that are in doubt are tried. */
export async function isShown(file, kind) {
  if (!(kind in PREVIEWS)) return kind !== null;
  const image = new Image();
  image.src = URL.createObjectURL(file);
  try {
    await image.decode();
    return true;
  } catch {
    return false;
  } finally {
    URL.revokeObjectURL(image.src);
  }
}

/** A small ImageBitmap, decoded off the main thread; null where the browser cannot. */
export async function thumbnail(blob) {
  try {
    return await createImageBitmap(blob, { resizeWidth: THUMBNAIL_WIDTH, resizeQuality: "medium" });
  } catch {
    return null;
  }
}

/**
 * The name of a restored file: `rain.jpg` as PNG is `rain-derained.png`, and with others of that name,
 * `rain-derained-2.png`.
 *
 * @param taken Set of the names that are in use; the new one is added
 */
export function restoredName(name, type, taken = new Set()) {
  const stem = name.replace(/\.[^.]{1,5}$/, "") || "photograph";
  const extension = formatOf(type)?.extension ?? "bin";
  let found = `${stem}-derained.${extension}`;
  for (let number = 2; taken.has(found); number++) found = `${stem}-derained-${number}.${extension}`;
  taken.add(found);
  return found;
}
