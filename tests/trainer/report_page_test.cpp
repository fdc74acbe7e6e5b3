#include <gtest/gtest.h>
#include <sys/resource.h>

#include <algorithm>
#include <nlohmann/json.hpp>
#include <regex>

#include "tests/data/test_files.h"
#include "trainer/report/page.h"
#include "trainer/report/report.h"
#include "trainer/report/run_data.h"

namespace rwkv::report {
namespace {

namespace fs = std::filesystem;
using testing::read_bytes;

std::string step_line(int64_t step, double loss) {
  return fmt::format(
      "{{\"step\":{0},\"tokens\":{1},\"loss\":{2},\"smoothed_loss\":{2},\"lr\":0.001,"
      "\"grad_norm\":0.5,\"tokens_per_s\":1000,\"elapsed_s\":{3}}}\n",
      step, step * 100, loss, static_cast<double>(step) / 10);
}

class Reports : public testing::FilesTest {
 protected:
  fs::path run(const std::string& name, const std::string& metrics) const {
    fs::create_directories(folder_ / name);
    write(name + "/metrics.jsonl", metrics);
    return folder_ / name;
  }
  fs::path good_run(const std::string& name, int64_t steps = 50) const {
    std::string text;
    for (int64_t step = 1; step <= steps; ++step) {
      text += step_line(step, 5.0 / static_cast<double>(step));
    }
    text += fmt::format("{{\"step\":{},\"tokens\":{},\"val_loss\":1.25}}\n", steps, steps * 100);
    return run(name, text);
  }
  std::string report(const std::vector<fs::path>& folders) const {
    write_report(folders, folder_ / "out.html");
    return read_bytes(folder_ / "out.html");
  }
};

size_t occurrences(const std::string& text, const std::string& part) {
  size_t count = 0;
  for (size_t at = text.find(part); at != std::string::npos; at = text.find(part, at + 1)) ++count;
  return count;
}

TEST_F(Reports, ALogIsReadWithItsFigures) {
  const RunData run = read_run(good_run("a"), 100);
  EXPECT_EQ(run.last.step, 50);
  EXPECT_EQ(run.last.tokens, 5000);
  EXPECT_DOUBLE_EQ(run.last.elapsed_s, 5);
  EXPECT_TRUE(run.has_elapsed);
  EXPECT_NEAR(run.tokens_per_s, 1000, 1e-9);
  EXPECT_EQ(run.damaged_lines, 0);
  EXPECT_EQ(run.metrics.at("loss").points.size(), 50U);
  EXPECT_EQ(run.metrics.at("loss").count, 50);
  EXPECT_EQ(run.metrics.at("val_loss").last, (Point{50, 1.25}));
  EXPECT_EQ(run.metrics.at("loss").least, (Point{50, 0.1}));
}

TEST_F(Reports, DamagedLinesArePassedOverAndCounted) {
  const auto folder = run("a", step_line(1, 3) + "{\"step\":2,\"lo\n" + "\xff\xfe\n" +
                                   step_line(3, 2) + step_line(2, 9) /* goes back */ +
                                   "{\"step\":4,\"loss\":null}\n" + "{\"step\":5,\"loss\":1.0");
  const RunData run = read_run(folder, 100);
  EXPECT_EQ(run.damaged_lines, 4);
  EXPECT_EQ(run.metrics.at("loss").points, (std::vector<Point>{{1, 3}, {3, 2}}));
  EXPECT_EQ(run.metrics.at("loss").not_finite, 1);
  const std::string page = report({folder});
  EXPECT_NE(page.find("a: 4 damaged or incomplete lines passed over"), std::string::npos);
  EXPECT_NE(page.find("a: 1 value of loss not finite"), std::string::npos);
}

TEST_F(Reports, UtilisationIsShownInPercent) {
  const std::string page = report({run("a", R"({"step":1,"tokens":1,"loss":2,"mfu":0.5})"
                                            "\n"
                                            R"({"step":2,"tokens":2,"loss":1,"mfu":0.625})"
                                            "\n")});
  EXPECT_NE(page.find("% of the machine&#39;s rate in matrix products"), std::string::npos);
  EXPECT_NE(page.find(R"("label":"mfu","x":[1,1],"y":[50,62.5])"), std::string::npos);
}

TEST_F(Reports, SessionsSamplesAndConfigurationAreRead) {
  const fs::path folder = good_run("a");
  SessionStart session;
  session.version = "0.1.0";
  session.machine = this_machine();
  EXPECT_GT(session.machine.cores, 0);
  EXPECT_GT(session.machine.memory_bytes, 1 << 20);
  session.config = {{"model.n_layer", "2"}, {"train.seed", "1"}};
  append_session_line(folder, to_json_line(session, "2026-01-01T00:00:00Z"));
  append_session_line(folder, session_end_line(20, "stopped by signal 15", "2026-01-01T01:00:00Z"));
  {
    std::ofstream cut(folder / "sessions.jsonl", std::ios::app);
    cut << "{\"event\":\"sta";  // a crash
  }
  session.step = 20;
  session.config[1].second = "2";
  append_session_line(folder, to_json_line(session, "2026-01-02T00:00:00Z"));
  write("a/samples.jsonl", to_json_line(SampleText{20, "\n", "text \xff"}) + "\n{}\n");

  const RunData run = read_run(folder, 100);
  EXPECT_EQ(run.damaged_lines, 2);
  EXPECT_EQ(run.started, "2026-01-01T00:00:00Z");
  EXPECT_EQ(run.status, "");  // the second session has not ended
  EXPECT_EQ(run.resumed_at, (std::vector<int64_t>{20}));
  EXPECT_EQ(run.config, session.config);
  ASSERT_EQ(run.samples.size(), 1U);
  EXPECT_EQ(run.samples[0].text, "text \xef\xbf\xbd");
}

TEST_F(Reports, NothingFromARunCanBecomeMarkupOrScript) {
  const std::string evil = "</script><script>alert(1)</script><img src=x onerror=alert(2)>\"'&";
  const fs::path folder = good_run("a<b>&\"");
  SessionStart session;
  session.version = evil;
  session.device = evil;
  session.machine.processor = evil;
  session.config = {{"data.path", evil}, {evil, evil}};
  append_session_line(folder, to_json_line(session, evil));
  append_session_line(folder, session_end_line(50, evil, evil));
  std::ofstream(folder / "samples.jsonl")
      << to_json_line(SampleText{1, evil, evil + std::string("\0\x1b[31m\xff", 7)}) << '\n';
  std::ofstream(folder / "metrics.jsonl", std::ios::app)
      << nlohmann::json{{"step", 50}, {evil, 7}}.dump() << '\n';
  const std::string page = report({folder, good_run("b")});
  EXPECT_EQ(occurrences(page, "<script"), 2U);  // data and program
  EXPECT_EQ(occurrences(page, "</script"), 2U);
  EXPECT_EQ(page.find("<img"), std::string::npos);
  EXPECT_EQ(page.find("a<b>"), std::string::npos);
  EXPECT_EQ(page.find('\0'), std::string::npos);
  EXPECT_EQ(page.find('\x1b'), std::string::npos);
  EXPECT_GT(occurrences(page, "&lt;img src=x onerror=alert(2)&gt;&quot;&#39;&amp;"), 6U);
}

TEST_F(Reports, ThePageNeedsNothingElse) {
  const std::string page = report({good_run("a")});
  EXPECT_EQ(page.find("http://"),
            page.find("http://www.w3.org/2000/svg"));  // a name, not a request
  EXPECT_EQ(occurrences(page, "http"), 2U);            // and http-equiv
  for (const char* loader : {"src=", "href=", "@import", "fetch(", "XMLHttpRequest", "<link"}) {
    EXPECT_EQ(page.find(loader), std::string::npos) << loader;
  }
  EXPECT_EQ(occurrences(page, "url("), occurrences(page, "url(#clip-"));
  EXPECT_NE(page.find("default-src 'none'"), std::string::npos);
}

TEST_F(Reports, EveryChartIsThereForEveryRunAndTheDataIsJson) {
  const std::string page = report({good_run("a"), good_run("b"), good_run("c")});
  for (const char* id : {"loss", "val_loss", "lr", "grad_norm", "tokens_per_s"}) {
    EXPECT_EQ(occurrences(page, fmt::format("id=\"chart-{}\"", id)), 1U) << id;
  }
  for (int i = 0; i < 3; ++i) {
    EXPECT_EQ(occurrences(page, fmt::format("class=\"curve line r{}\" data-run", i)), 4U) << i;
    EXPECT_EQ(occurrences(page, fmt::format("class=\"curve raw r{}\" data-run", i)), 3U) << i;
    EXPECT_EQ(occurrences(page, fmt::format("class=\"curve dots r{}\" data-run", i)), 2U) << i;
  }
  const size_t begin = page.find("id=\"data\">") + 10;
  const auto data =
      nlohmann::json::parse(page.substr(begin, page.find("</script>", begin) - begin));
  EXPECT_EQ(data["runs"].size(), 3U);
  EXPECT_EQ(data["runs"][1]["name"], "b");
  EXPECT_EQ(data["charts"].size(), 5U);
  EXPECT_EQ(data["charts"][0]["curves"].size(), 9U);
  EXPECT_EQ(data["charts"][0]["curves"][0]["y"].size(), 50U);
}

TEST_F(Reports, ColumnsThatThisVersionDoesNotKnowGetACurve) {
  const auto folder = run("a",
                          "{\"step\":1,\"loss\":2,\"loss_scale\":1024}\n"
                          "{\"step\":2,\"loss\":2,\"loss_scale\":2048}\n");
  EXPECT_NE(report({folder}).find("<b>loss_scale</b>"), std::string::npos);
}

TEST_F(Reports, DifferencesOfConfigurationsAreShownFirst) {
  std::vector<fs::path> folders;
  for (const std::string name : {"a", "b"}) {
    folders.push_back(good_run(name));
    SessionStart session;
    session.config = {{"model.n_layer", "2"}, {"train.seed", name == "a" ? "1" : "2"}};
    append_session_line(folders.back(), to_json_line(session, ""));
  }
  const std::string page = report(folders);
  EXPECT_NE(page.find("What differs: 1 of 2 settings"), std::string::npos);
  EXPECT_EQ(occurrences(page, "<tr class=\"differs\">"), 1U);
  EXPECT_EQ(occurrences(page, "train.seed"), 2U);
  EXPECT_EQ(occurrences(page, "model.n_layer"), 1U);
}

TEST_F(Reports, TheSameNameInTwoFoldersIsToldApart) {
  const std::string page = report({good_run("x/run"), good_run("y/run")});
  EXPECT_NE(page.find("x/run"), std::string::npos);
  EXPECT_NE(page.find("y/run"), std::string::npos);
}

TEST_F(Reports, MistakesAreOneLineAndLeaveNothing) {
  const fs::path good = good_run("a");
  const fs::path out = folder_ / "r.html";
  write("file", "x");
  fs::create_directories(folder_ / "empty");
  EXPECT_REFUSED(write_report({folder_ / "absent"}, out), "no such folder");
  EXPECT_REFUSED(write_report({folder_ / "file"}, out), "is no folder");
  EXPECT_REFUSED(write_report({folder_ / "empty"}, out), "metrics.jsonl");
  EXPECT_REFUSED(write_report({run("bad", "nonsense\n{\n")}, out), "2 damaged");
  EXPECT_REFUSED(write_report({run("none", "")}, out), "no whole line");
  EXPECT_REFUSED(write_report({good, folder_ / "." / "a" / ""}, out), "named twice");
  EXPECT_REFUSED(write_report({good}, folder_ / "absent" / "r.html"), "absent");
  EXPECT_REFUSED(write_report({good}, folder_ / "empty"), "is a folder");
  EXPECT_FALSE(fs::exists(out));
  for (const auto& entry : fs::directory_iterator(folder_)) {
    EXPECT_EQ(entry.path().string().find(".tmp-"), std::string::npos) << entry.path();
  }
}

TEST_F(Reports, ALongLogGivesASmallPageInLittleMemoryAndKeepsItsSpikes) {
  std::string text;
  constexpr int64_t kSteps = 200'000;
  for (int64_t step = 1; step <= kSteps; ++step) {
    text += step_line(step,
                      step == 123'457 ? 77.25 : 2 + static_cast<double>(step * 7919 % 1000) / 1e3);
  }
  const fs::path a = run("a", text);
  text = {};
  const fs::path b = good_run("b");
  rusage before{};
  rusage after{};
  ::getrusage(RUSAGE_SELF, &before);
  const std::string page = report({a, b});
  ::getrusage(RUSAGE_SELF, &after);
  EXPECT_LT(page.size(), 2'000'000U);
#ifndef __SANITIZE_ADDRESS__                                 // it keeps freed memory
  EXPECT_LT(after.ru_maxrss - before.ru_maxrss, 64 * 1024);  // kB; the log has 30 MB
#endif
  const size_t begin = page.find("id=\"data\">") + 10;
  const auto data =
      nlohmann::json::parse(page.substr(begin, page.find("</script>", begin) - begin));
  const auto& curve = data["charts"][0]["curves"][0];
  int64_t step = 0;
  bool found = false;
  for (size_t i = 0; i < curve["x"].size(); ++i) {
    step += curve["x"][i].get<int64_t>();
    found = found || (step == 123'457 && curve["y"][i] == 77.25);
  }
  EXPECT_TRUE(found);
}

}  // namespace
}  // namespace rwkv::report
