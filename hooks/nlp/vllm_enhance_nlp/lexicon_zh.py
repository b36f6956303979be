"""Chinese word tables: connectives after the CDTB list, question words, verbs, pronouns.

Tables only; the rules that read them are in `connectives_zh`, `clauses`, `reference_zh` and `signals`.
Connectives: Li, Feng, Sun, Kong, Zhou, "Building Chinese Discourse Corpus with Connective-driven Dependency Tree
Structure" (EMNLP 2014), its relations folded into the eight of `types.Sense`: 递进, 并列 and 顺承 without time are
conjunction, 转折 and 让步 contrast, 假设 and 条件 condition, 选择 alternative.
"""

from __future__ import annotations

from typing import Final

from .tables import word_set

__all__ = [
    "ANYWHERE",
    "CLAUSE_INITIAL",
    "COMPARATIVES",
    "FRONTED",
    "GREETINGS",
    "NEGATIONS",
    "PAIRS",
    "PERSON_NOUNS",
    "POSTPOSED",
    "PREPOSED_PHRASES",
    "QUESTION_MARKERS",
    "RELATIONAL_NOUNS",
    "REQUEST_VERBS",
    "SECOND_ONLY",
    "SKIP_WORDS",
    "STOP_WORDS",
    "TIME_UNITS",
    "VERBS",
]


def _senses(**groups: str) -> dict[str, str]:
    return {word: sense for sense, words in groups.items() for word in words.split()}


# Count wherever they stand.
ANYWHERE: Final = _senses(
    conjunction="而且 并且 况且 何况 不仅如此 与此同时 并",
    contrast="虽然 虽说 尽管 即使 即便 就算 哪怕 纵然 然而 却 反而 但是",
    cause="因为 由于 因此 因而 既然 从而 以致 所以 以至于",
    condition="如果 假如 假设 要是 倘若 假使 万一 只要 除非 一旦 无论 不管 不论 的话",
    time="然后 随后",
    purpose="为了 以便 以免 免得 省得 好让",
    alternative="要么 与其 宁可 宁愿 否则 要不然 还是",
    comparison="比起 正如 相比之下",
)

# Count only as the first word of a clause: elsewhere they are adverbs, nouns or parts of other words.
CLAUSE_INITIAL: Final = _senses(
    conjunction="另外 此外 同时 再者 以及 甚至 且",
    contrast="但 可是 可 不过 而 虽 只是",
    cause="于是 结果",
    condition="若",
    time="接着 后来 之后",
    alternative="或者 或 不然",
    comparison="同样 如同",
)

# Stand at the end of the clause they subordinate.
POSTPOSED: Final = _senses(time="的时候 之前 之后 以后 以前 的同时")

# Take a noun phrase: the fronted phrase is no clause of its own.
PREPOSED_PHRASES: Final = frozenset({"比起", "相比之下"})

# First parts, second parts in order of preference, sense.
PAIRS: Final = tuple(
    (tuple(first.split("|")), tuple(second.split("|")), sense)
    for first, second, sense in (
        ("虽然|虽说|虽", "但是|但|可是|不过|然而|却|可|还是|仍然", "contrast"),
        ("尽管", "但是|但|可是|不过|然而|还是|却|仍然", "contrast"),
        ("即使|即便|就算|哪怕|纵然", "也|还|都", "contrast"),
        ("之所以", "是因为|是由于", "cause"),
        ("因为", "所以|因此|因而", "cause"),
        ("由于", "所以|因此|因而", "cause"),
        ("既然", "那么|就|那", "cause"),
        ("如果|假如|要是|倘若|假使|假设|若", "那么|就|的话|那|则", "condition"),
        ("万一", "就|的话", "condition"),
        ("一旦", "就", "condition"),
        ("只要", "就|都", "condition"),
        ("只有", "才", "condition"),
        ("除非", "否则|不然|才", "condition"),
        ("无论|不管|不论", "都|也", "condition"),
        ("不但|不仅|不只|不光", "而且|并且|还|也|甚至|更", "conjunction"),
        ("既", "又|也", "conjunction"),
        ("一边", "一边", "conjunction"),
        ("一面", "一面", "conjunction"),
        ("一方面", "另一方面|一方面", "conjunction"),
        ("不是", "而是", "contrast"),
        ("不是", "就是", "alternative"),
        ("是", "还是", "alternative"),
        ("要么", "要么", "alternative"),
        ("或者", "或者", "alternative"),
        ("与其", "不如|倒不如", "alternative"),
        ("宁可|宁愿", "也", "alternative"),
        ("首先", "然后|其次|再", "time"),
        ("先", "然后|再", "time"),
        ("一", "就", "time"),
        ("刚", "就", "time"),
        ("当", "的时候|时", "time"),
        ("与|和|跟|同", "相比", "comparison"),
    )
)
# Words that matter only as a part of a pair.
SECOND_ONLY: Final = word_set(
    "也 还 都 就 才 那么 那 则 又 更 再 其次 仍然 是因为 是由于 而是 就是 不如 倒不如 相比 另一方面 时"
)

# Longer words that merely contain a connective; matched first, then dropped.
SKIP_WORDS: Final = word_set(
    "可不可 可不 和平 和谐 温和 暖和 和解 和尚 总和 附和 饱和 可以 可能 可爱 可怜 可乐 可口 可靠 可见 可惜 "
    "可怕 可选 可用 可否 "
    "认可 许可 但愿 并非 并不 并没 合并 吞并 一并 并发 并行 并购 并列 并排 并入 而已 而言 时而 "
    "进而 幸而 反而 而立 "
    "成就 就业 就医 就读 就职 就餐 将就 迁就 就诊 就近 一些 一个 一种 一样 一起 一般 一直 一定 "
    "一下 一点 一次 一共 "
    "一年 一天 一月 一只 一条 一张 一台 一本 一家 一位 一首 一名 一款 一部 一件 一把 一份 一周 "
    "一段 一句 一块 一切 一致 "
    "一流 一旁 一生 一半 一斤 一米 一元 统一 唯一 第一 之一 星期一 周一 万一 一旦 一边 一面 一方面 "
    "另一方面 首先 优先 "
    "祖先 先生 先进 先后 原先 事先 预先 率先 领先 当然 当时 当前 当地 当年 当天 应当 相当 适当 "
    "当作 当成 当心 恰当 当选 "
    "每当 正当 担当 充当 参与 与否 赠与 给与 与会 同样 不同 相同 同学 同事 合同 共同 同意 同步 "
    "同伴 胡同 如同 同类 同期 "
    "倘若 若干 假若 宛若 既然 既有 虽然 虽说 或许 或是 抑或 况且 而且 并且 姑且 暂且 尚且 且慢 "
    "规则 原则 否则 法则 准则 "
    "那里 那个 那些 那样 那边 那种 那儿 那天 那年 那时 还款 还有 还钱 归还 偿还 退还 还原 还债 "
    "也许 都市 首都 成都 "
    "京都 又名 再见 再次 人才 刚才 天才 更新 更换 更改 更加 变更 时间 时候 时期 时代 时差 "
    "小时 及时 按时 准时 "
    "平时 同时 临时 随时 何时 暂时 有时 时区 时速 时长 时钟 时尚 实时 按揭 不是 是不是 是否 总是 "
    "于是 可是 但是 还是 "
    "要是 凡是 就是 只是 是非 老是 算是 是的 而是 有的时候 什么时候 从此以后 很久以前 刚刚 刚好 "
    "金刚 跟随 跟踪 相比之下 "
    "结果实 结果子"
)

QUESTION_MARKERS: Final = (
    "什么",
    "怎么",
    "怎样",
    "如何",
    "为何",
    "为啥",
    "啥",
    "咋",
    "哪",
    "谁",
    "几",
    "多少",
    "多久",
    "多长",
    "多大",
    "多高",
    "多远",
    "多快",
    "多重",
    "多深",
    "多宽",
    "多贵",
    "多难",
    "吗",
    "是否",
    "何时",
    "何处",
    "何地",
    "何种",
    "是不是",
    "能不能",
    "会不会",
    "有没有",
    "要不要",
    "可不可以",
    "该不该",
    "好不好",
    "对不对",
    "行不行",
    "难不难",
    "贵不贵",
    "可否",
    "能否",
    "多厚",
    "多重要",
    "多大年纪",
    "几时",
    "怎",
)
REQUEST_VERBS: Final = (
    "请帮",
    "请你",
    "请给",
    "帮我",
    "麻烦",
    "告诉我",
    "给我",
    "解释",
    "介绍",
    "翻译",
    "比较",
    "列出",
    "列举",
    "说明",
    "总结",
    "推荐",
    "写一",
    "写个",
    "写出",
    "举例",
    "描述",
    "分析",
    "概括",
    "计算",
    "把“",
    '把"',
    "把「",
    "生成",
    "改写",
    "润色",
    "设计",
)
GREETINGS: Final = ("你好", "您好", "大家好", "早上好", "下午好", "晚上好", "嗨", "哈喽", "各位好", "老师好")
FRONTED: Final = (
    "在",
    "对于",
    "关于",
    "与",
    "和",
    "跟",
    "比起",
    "相比",
    "除了",
    "按照",
    "根据",
    "作为",
    "通过",
    "至于",
    "说到",
    "就",
)
RELATIONAL_NOUNS: Final = (
    "人口",
    "面积",
    "价格",
    "费用",
    "年费",
    "运费",
    "流程",
    "作者",
    "作用",
    "意义",
    "特点",
    "优点",
    "缺点",
    "优势",
    "历史",
    "功能",
    "原理",
    "用途",
    "成本",
    "寿命",
    "重量",
    "高度",
    "长度",
    "首都",
    "代表作",
    "成分",
    "营养",
    "副作用",
    "症状",
    "原因",
    "下一届",
    "上一届",
    "第一届",
    "总部",
    "创始人",
    "主要",
    "难度",
)
PERSON_NOUNS: Final = (
    "人",
    "者",
    "家",
    "总统",
    "皇帝",
    "教授",
    "医生",
    "老师",
    "导演",
    "演员",
    "歌手",
    "诗人",
    "主席",
    "国王",
)
VERBS: Final = tuple(
    sorted(
        [
            "安装",
            "配置",
            "学习",
            "使用",
            "办理",
            "申请",
            "注册",
            "卸载",
            "设置",
            "制作",
            "备份",
            "恢复",
            "修改",
            "删除",
            "创建",
            "打开",
            "关闭",
            "调用",
            "实现",
            "提高",
            "减少",
            "去除",
            "清理",
            "更换",
            "购买",
            "选择",
            "训练",
            "部署",
            "升级",
            "更新",
            "下载",
            "上传",
            "连接",
            "查看",
            "计算",
            "编写",
            "读取",
            "撤销",
            "提交",
            "合并",
            "生成",
            "导出",
            "导入",
            "翻译",
            "预防",
            "治疗",
            "缓解",
            "判断",
            "测量",
            "种植",
            "养护",
            "保存",
            "储存",
            "冷冻",
            "加热",
            "修理",
            "维修",
            "举办",
            "举行",
            "组织",
            "准备",
            "参加",
            "报名",
            "预订",
            "取消",
            "退订",
            "投资",
            "理财",
            "开通",
            "注销",
            "补办",
            "转账",
            "缴纳",
            "撰写",
            "发送",
            "接收",
            "打印",
            "扫描",
            "整理",
            "练习",
            "学",
            "做",
            "写",
            "用",
            "种",
            "养",
            "买",
            "卖",
            "吃",
            "喝",
            "煮",
            "炒",
            "泡",
            "蒸",
            "烤",
            "洗",
            "换",
            "修",
            "装",
            "开",
            "关",
            "办",
            "交",
            "看",
            "读",
            "画",
            "玩",
            "退",
            "订",
            "查",
            "算",
            "改",
            "建",
            "造",
        ],
        key=lambda word: -len(word),
    )
)
TIME_UNITS: Final = (
    "天",
    "年",
    "月",
    "周",
    "小时",
    "分钟",
    "日",
    "世纪",
    "号",
    "点",
    "岁",
    "星期",
    "秒",
    "不久",
    "很久",
    "节",
    "此",
    "那",
    "这",
)
NEGATIONS: Final = (
    "不",
    "没有",
    "没",
    "无",
    "未",
    "非",
    "别",
    "勿",
    "莫",
    "从不",
    "并非",
    "不是",
    "不会",
    "不能",
    "无法",
    "不可",
    "不要",
    "不用",
)
COMPARATIVES: Final = (
    "比",
    "更",
    "最",
    "不如",
    "胜过",
    "优于",
    "劣于",
    "高于",
    "低于",
    "大于",
    "小于",
    "多于",
    "少于",
    "区别",
    "差别",
    "不同",
    "相同",
    "一样",
    "相比",
    "比较",
    "对比",
    "哪个好",
    "还是",
)
STOP_WORDS: Final = word_set(
    "的 了 是 在 我 你 他 她 它 们 我们 你们 他们 它们 这 那 有 和 与 或 吗 呢 吧 啊 呀 就 也 都 "
    "还 又 很 什么 怎么 怎样 如何 为什么 "
    "哪 哪个 哪些 哪里 谁 多少 几 请 请问 一个 一下 可以 能 会 要 把 被 给 对 从 到 用 而 且 但 "
    "但是 因为 所以 如果 吗 应该 需要 "
    "这个 那个 着 过 地 得 之 其 以 及 于 让 向 跟 比 更 最 不 没 没有"
)
