// The panels beside the text that belong to the story itself; insight adds its own.
import { addBranches } from "./branches.js";
import { addChapters } from "./chapters.js";
import { addDrafts } from "./drafts.js";
import { addMemory, addWorld } from "./lore.js";
import { addModelView } from "./model_view.js";
import { addSettings } from "./settings.js";

/**
 * @param {import("./room.js").Write} write
 * @param {ReturnType<typeof import("./layout.js").buildLayout>} layout
 * @param {ReturnType<typeof import("./writing.js").createWriting>} jobs
 */
export function addPanels(write, layout, jobs) {
  addChapters(write, layout);
  addBranches(write, jobs);
  addMemory(write);
  addWorld(write);
  addModelView(write, jobs);
  addSettings(write);
  addDrafts(write, layout, jobs);
}
