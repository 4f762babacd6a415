function sendNormalChatRequest() {
    const chatRequest = {
        type: 'CHAT_REQUEST',
        sessionId: 'session001',
        userId: 'user001',
        data: {
            message: '什么是供应链优化？',
            streaming: false,          // 非流式响应
            model: 'gpt-3.5-turbo',
            provider: 'openai'
        },
        timestamp: new Date().toISOString()
    };
    
    websocket.send(JSON.stringify(chatRequest));
}
