// Every word of the page, in Chinese and English.

const TEXTS = {
  zh: {
    assistant: "助手",
    cancelled: "已停止",
    closedBy: "连接已关闭（{code}）。{reason}",
    connect: "连接",
    content_filter: "内容被过滤",
    conversation: "对话",
    copied: "已复制",
    copy: "复制回答",
    earlier: "更早的消息",
    error: "出错",
    finished: "回答完成",
    interrupted: "已中断",
    keys: "Enter 发送 · Shift+Enter 换行",
    length: "达到长度上限",
    lost: "连接中断，正在重连",
    lostFor: "连接中断，{seconds} 秒后重连",
    model: "模型",
    modelDefault: "默认模型",
    newChat: "新对话",
    notAToken: "这不是有效的令牌",
    question: "输入您的问题…",
    reconnect: "重新连接",
    refused: "回答已丢失，请重试",
    retracted: "内容因安全策略被撤回",
    retry: "重试",
    seconds: "{n} 秒",
    send: "发送",
    signIn: "连接到 SCM AI",
    signInMore: "请粘贴您的访问令牌。它只保存在此标签页中，关闭后即清除。",
    signOut: "更换令牌",
    skip: "跳到输入框",
    state_closed: "已断开",
    state_connecting: "连接中…",
    state_offline: "未登录",
    state_open: "已连接",
    state_waiting: "等待重连",
    stop: "停止回答",
    stopping: "正在停止…",
    thinking: "思考中…",
    thought: "思考过程",
    timeout: "超时",
    toEnd: "回到最新消息",
    token: "令牌",
    tokens: "{n} 词元",
    tokensAbout: "约 {n} 词元",
    tokenRejected: "令牌无效或已过期，请重新输入",
    too_large: "回答过长，已截断",
    tool_calls: "工具调用",
    welcome: "有什么可以帮您？",
    welcomeMore: "提出一个问题，回答会逐字出现，随时可以停止。",
    you: "您",
  },
  en: {
    assistant: "Assistant",
    cancelled: "stopped",
    closedBy: "The connection was closed ({code}). {reason}",
    connect: "Connect",
    content_filter: "filtered",
    conversation: "Conversation",
    copied: "Copied",
    copy: "Copy the answer",
    earlier: "Earlier messages",
    error: "failed",
    finished: "The answer is complete",
    interrupted: "interrupted",
    keys: "Enter sends · Shift+Enter for a new line",
    length: "length limit reached",
    lost: "Connection lost, reconnecting",
    lostFor: "Connection lost, reconnecting in {seconds} s",
    model: "Model",
    modelDefault: "Default model",
    newChat: "New chat",
    notAToken: "This is not a valid token",
    question: "Ask anything…",
    reconnect: "Reconnect",
    refused: "The answer is lost; please try again",
    retracted: "The text was withdrawn by the content filter",
    retry: "Retry",
    seconds: "{n} s",
    send: "Send",
    signIn: "Connect to SCM AI",
    signInMore: "Paste your access token. It is kept in this tab only and forgotten when you close it.",
    signOut: "Change the token",
    skip: "Skip to the question",
    state_closed: "Disconnected",
    state_connecting: "Connecting…",
    state_offline: "Not signed in",
    state_open: "Connected",
    state_waiting: "Waiting",
    stop: "Stop the answer",
    stopping: "Stopping…",
    thinking: "Thinking…",
    thought: "Reasoning",
    timeout: "timed out",
    toEnd: "To the newest message",
    token: "Token",
    tokens: "{n} tokens",
    tokensAbout: "about {n} tokens",
    tokenRejected: "The token is not valid or has expired; enter a new one",
    too_large: "cut, too long",
    tool_calls: "tool calls",
    welcome: "How can I help?",
    welcomeMore: "Ask a question. The answer appears word by word, and you can stop it at any time.",
    you: "You",
  },
};

export const SUGGESTIONS = {
  zh: ["请解释一下供应链管理的核心概念", "什么是供应链优化？", "如何在不缺货的前提下降低库存？", "为新供应商写一份评估清单"],
  en: [
    "Explain the core ideas of supply chain management",
    "What is supply chain optimisation?",
    "How can we hold less stock without running out?",
    "Write a checklist for assessing a new supplier",
  ],
};

const asked = new URLSearchParams(location.search).get("lang") ?? navigator.language ?? "zh";

export const lang = asked.toLowerCase().startsWith("en") ? "en" : "zh";

/** The text of `key`; `{name}` in it is replaced by `values.name`. An unknown key is shown as it is. */
export function t(key, values = {}) {
  return (TEXTS[lang][key] ?? key).replace(/\{(\w+)\}/g, (_, name) => values[name] ?? "");
}

/** Fill in the texts that the HTML only names. */
export function translate(root) {
  for (const node of root.querySelectorAll("[data-text]")) node.textContent = t(node.dataset.text);
  for (const node of root.querySelectorAll("[data-placeholder]")) node.placeholder = t(node.dataset.placeholder);
  for (const node of root.querySelectorAll("[data-label]")) label(node, node.dataset.label);
}

export function label(node, key) {
  node.setAttribute("aria-label", t(key));
  node.title = t(key);
}
