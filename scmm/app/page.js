// One script for the results and for the dialog: their buttons tell Gradio what was asked for.
const EVENTS = ['open_image', 'more_like_this'];

element.addEventListener('click', (click) => {
  const button = click.target.closest('[data-event]');
  if (button && EVENTS.includes(button.dataset.event)) {
    const sentence = button.closest('[data-sentence]')?.dataset.sentence ?? '';
    trigger(button.dataset.event, { id: button.dataset.id, sentence });
  }
});

// An image that vanished after the search.
element.addEventListener('error', ({ target }) => {
  if (target.tagName !== 'IMG') return;
  const gone = document.createElement('span');
  gone.className = 'scmm-gone';
  gone.setAttribute('role', 'img');
  gone.setAttribute('aria-label', target.alt);
  gone.textContent = 'The file is no longer there';
  target.replaceWith(gone);
}, true);

watch('value', () => {
  const dialog = element.querySelector('dialog');
  if (dialog) {
    dialog.addEventListener('close', () => { props.value = ''; });
    dialog.addEventListener('click', ({ target }) => { if (target === dialog) dialog.close(); });
    dialog.showModal();
  }
  const found = element.querySelector('[data-link]');
  if (found && found.dataset.link && found.dataset.link !== window.location.search) {
    window.history.pushState(null, '', found.dataset.link);
  }
});

// Back and forward lead to the searches before and after.
if (element.closest('#results') || element.id === 'results') {
  window.addEventListener('popstate', () => window.location.reload());
}
