// How photographs come in: picked, dropped anywhere, pasted, or one of the samples.

const get = (id) => document.getElementById(id);

/** Calls `take` with an array of files; `refuse` with words where something else was dropped. */
export function listen({ take, refuse }) {
  const picker = get("files");
  get("choose").addEventListener("click", () => picker.click());
  picker.addEventListener("change", () => {
    if (picker.files.length) take([...picker.files]);
    picker.value = ""; // so that the same file can be picked again
  });

  addEventListener("paste", ({ clipboardData }) => {
    if (clipboardData.files.length) take([...clipboardData.files]);
  });

  let inside = 0; // elements that the drag is over
  const over = (by) => {
    inside = Math.max(0, inside + by);
    get("drop").hidden = inside === 0;
  };
  addEventListener("dragenter", ({ dataTransfer }) => carriesFiles(dataTransfer) && over(1));
  addEventListener("dragleave", ({ dataTransfer }) => carriesFiles(dataTransfer) && over(-1));
  addEventListener("dragover", (event) => {
    if (carriesFiles(event.dataTransfer)) event.preventDefault();
  });
  addEventListener("drop", (event) => {
    over(-inside);
    if (!carriesFiles(event.dataTransfer)) return;
    event.preventDefault();
    const files = dropped(event.dataTransfer);
    if (files.length) take(files);
    else refuse("Folders are not taken here: open one and drop what is in it.");
  });

  get("samples").addEventListener("click", async ({ target }) => {
    const address = target.closest("[data-sample]")?.dataset.sample;
    if (!address) return;
    const name = address.split("/").at(-1);
    try {
      const response = await fetch(address);
      if (!response.ok) throw new TypeError(`${name} was answered ${response.status}`);
      // always the same, so that it is known when pressed again
      take([new File([await response.blob()], name, { type: "image/jpeg", lastModified: 0 })]);
    } catch {
      refuse("The sample cannot be had: the service cannot be reached.");
    }
  });
}

function carriesFiles(transfer) {
  return transfer?.types.includes("Files") ?? false;
}

/** The files of a drop, without folders. */
function dropped({ items, files }) {
  const isFolder = [...items].filter(({ kind }) => kind === "file").map((item) => item.webkitGetAsEntry?.()?.isDirectory);
  return [...files].filter((_file, index) => !isFolder[index]);
}
