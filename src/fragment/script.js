// Moves the fragments of a page into their places, in browsers that do not know `<template for>`. In other browsers it
// does nothing.
//
// The page contains `<?start name="tp1">fallback<?end>`, which these browsers parse as the comments `?start name="tp1"`
// and `?end`. Later the body contains `<template for="tp1">output</template>` and a newline.
//
// The page becomes the same as in a browser that knows `<template for>`, with these differences:
//
// - The fallback stays until the output is complete.
// - Scripts in the output run as well, but the elements behind a script do not wait for the script.
// - Output inside of an `<svg>` or `<math>` element needs an `<svg>` or `<math>` element of its own.
(() => {
  if ('htmlFor' in HTMLTemplateElement.prototype) return;

  const startOf = (template) => {
    const data = `?start name="${template.getAttribute('for')}"`;
    // As in the standard, only a template directly in the body reaches the whole page.
    const parent = template.parentNode;
    const root = parent === document.body ? document : parent;
    const comments = document.createNodeIterator(root, NodeFilter.SHOW_COMMENT);
    let comment;
    do comment = comments.nextNode(); while (comment && comment.data !== data);
    return comment;
  };

  // Returns the last node that the output replaces. Fallbacks may contain fragments.
  const endOf = (start) => {
    let depth = 0;
    for (let node = start; ; node = node.nextSibling) {
      if (node.nodeType === Node.COMMENT_NODE) {
        if (node.data.startsWith('?start ')) depth += 1;
        if (node.data === '?end') depth -= 1;
      }
      if (depth === 0 || !node.nextSibling) return node;
    }
  };

  // The parser appends the newline when it has read the whole template. The next sibling could also be an element that
  // another script has appended in the meantime.
  const isComplete = (template) =>
    template.nextSibling?.nodeType === Node.TEXT_NODE || document.readyState !== 'loading';

  const replace = () => {
    for (const template of document.querySelectorAll('template[for]')) {
      const start = isComplete(template) && startOf(template);
      if (!start) continue;
      const range = document.createRange();
      range.setStartBefore(start);
      range.setEndAfter(endOf(start));
      range.deleteContents();
      // The content itself and not a copy, which would lack shadow trees.
      range.insertNode(template.content);
      template.remove();
    }
  };

  replace();
  if (document.readyState !== 'loading') return;
  const observer = new MutationObserver(replace);
  observer.observe(document, { childList: true, subtree: true });
  // The parser ends before `DOMContentLoaded`, for which scripts wait that expect a complete page.
  document.addEventListener('readystatechange', () => {
    replace();
    observer.disconnect();
  }, { once: true });
})();
