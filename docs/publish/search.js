// What search.py does with a page, done with what somebody looks for. Sphinx puts this behind its English stemmer.
(() => {
  const HAN = "\\u3400-\\u4dbf\\u4e00-\\u9fff";
  const RUNS = new RegExp(`[${HAN}]+|(?:(?![${HAN}])[\\p{Letter}\\p{Number}_])+`, "gu");
  const CHINESE = new RegExp(`[${HAN}]`, "u");
  const MARK = "__"; // behind a word with less than three letters
  const English = window.Stemmer;

  // The pairs of neighbouring characters of Chinese; a character that stands alone is a word
  window.splitQuery = (query) =>
    (query.match(RUNS) || []).flatMap((run) =>
      CHINESE.test(run) && run.length > 1 ? [...run].slice(1).map((second, at) => run[at] + second) : [run],
    );

  window.Stemmer = function () {
    const english = new English();
    this.stemWord = (word) => {
      const stem = english.stemWord(word);
      return stem.length > 2 ? stem : stem + MARK;
    };
  };

  if (typeof Search !== "undefined") {
    // A result shows the place where a word stands, and the pages do not have the mark
    const summary = Search.makeSearchSummary;
    Search.makeSearchSummary = (html, words, anchor) =>
      summary(html, [...words].map((word) => word.replace(MARK, "")), anchor);
  }

  if (CHINESE.test(new URLSearchParams(window.location.search).get("q"))) {
    document.documentElement.lang = "zh-CN";
    Documentation.addTranslations({
      locale: "zh_CN",
      plural_expr: "0",
      messages: {
        "Searching": "正在搜索",
        "Search Results": "搜索结果",
        "Search finished, found one page matching the search query.": ["找到${resultCount}个页面。"],
        "Your search did not match any documents. Please make sure that all words are spelled correctly and that you've selected enough categories.":
          "没有找到。请检查是否有错字，或者换一个短一些的词。",
      },
    });
  }
})();
