// Two people in a chat room, each with the page of examples/chat-shell in a browser of their own.
//
//     node chat.mjs PAGE URL
//
// Says "joined" when both are there, and does one thing for each line that it reads: `say WHO TEXT`, which both have to
// read; `connected`, for which neither may have been disconnected meanwhile.
import assert from "node:assert/strict";
import { createInterface } from "node:readline";
import { pathToFileURL } from "node:url";
import { chromium } from "playwright-core";

const [file, url] = process.argv.slice(2);
const browser = await chromium.launch({
  executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium",
  args: ["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"],
});
const people = [];
try {
  for (const name of ["Ada", "Bob"]) {
    const page = await (await browser.newContext()).newPage();
    page.setDefaultTimeout(60_000);
    let ended = 0;
    page.on("websocket", (socket) => socket.on("close", () => (ended += 1)));
    await page.goto(`${pathToFileURL(file)}?${url}`);
    await page.getByText("Connected.", { exact: true }).waitFor();
    await page.getByPlaceholder("your name").fill(name);
    people.push({ name, page, ended: () => ended });
  }
  console.log("joined");
  for await (const line of createInterface({ input: process.stdin })) {
    const [verb, who, ...words] = line.split(" ");
    if (verb === "say") {
      const text = words.join(" ");
      const { page } = people.find(({ name }) => name === who);
      await page.getByPlaceholder("what you say").fill(text);
      await page.getByRole("button", { name: "Say it" }).click();
      for (const { page } of people) {
        await page.getByRole("listitem").filter({ hasText: `${who}: ${text}` }).waitFor();
      }
      console.log(`read ${text}`);
    } else {
      for (const { name, ended } of people) assert.equal(ended(), 0, `${name} was disconnected`);
      console.log("connected");
    }
  }
} finally {
  await browser.close();
}
